/* Filters, columns, ranks of what is left, and all of it in the address. Without it the board stays as served. */
(function () {
  "use strict";

  var RANKED_UP_TO = 200;
  var LEVEL = 0.05;
  var SCALE = 1000; /* codes a unit of −ln p: leaderboard/pair_codes.py */
  var table = document.getElementById("board");
  if (!table) { return; }

  function byId(id) { return document.getElementById(id); }
  function list(found) { return Array.prototype.slice.call(found); }

  var status = byId("status");
  var ranked = list(table.tBodies[0].querySelectorAll("tr[data-id]"));
  var rows = list(table.querySelectorAll("tr[data-id]"));
  var headers = list(table.tHead.rows[0].cells);
  var columns = headers.map(function (h) { return h.getAttribute("data-column"); });
  var tasks = headers.filter(function (h) { return h.classList.contains("score"); })
    .map(function (h) { return h.getAttribute("data-column"); });
  var boxes = list(document.querySelectorAll("input[data-column]"));
  var choices = boxes.map(function (b) { return b.getAttribute("data-column"); });
  var texts = { q: byId("f-q"), min: byId("f-min"), max: byId("f-max") };
  var picks = { by: byId("f-by"), source: byId("f-source"), tier: byId("f-tier") };
  var complete = byId("f-complete");
  var standard = table.getAttribute("data-default");

  /* ---- state: what differs from the page as served, and nothing else ---- */

  function amount(text) { return text && isFinite(Number(text)) ? text : ""; }

  function read() {
    var asked = new URLSearchParams(location.hash.slice(1));
    var hidden = (asked.get("hide") || "").split(",").filter(function (c) { return choices.indexOf(c) > -1; });
    var sort = asked.get("sort");
    return {
      q: asked.get("q") || "", min: amount(asked.get("min")), max: amount(asked.get("max")),
      by: asked.get("by") || "", source: asked.get("source") || "", tier: asked.get("tier") || "",
      complete: asked.get("complete") === "1", hide: hidden,
      sort: columns.indexOf(sort) > -1 ? sort : standard,
      dir: asked.get("dir") === "ascending" ? "ascending" : asked.get("dir") === "descending" ? "descending" : ""
    };
  }

  function write(state) {
    var said = new URLSearchParams();
    ["q", "by", "source", "tier", "min", "max"].forEach(function (key) {
      if (state[key]) { said.set(key, state[key]); }
    });
    if (state.complete) { said.set("complete", "1"); }
    if (state.hide.length) { said.set("hide", state.hide.join(",")); }
    if (state.sort !== standard || state.dir !== usual(state.sort)) {
      said.set("sort", state.sort);
      said.set("dir", state.dir);
    }
    return said.toString();
  }

  function usual(column) {
    var header = headers[columns.indexOf(column)];
    return header && header.hasAttribute("data-numeric") ? "descending" : "ascending";
  }

  function fromControls() {
    var sorted = headers.filter(function (h) { return h.hasAttribute("aria-sort"); })[0];
    return {
      q: texts.q.value.trim(), min: texts.min.value, max: texts.max.value,
      by: picks.by.value, source: picks.source.value, tier: picks.tier.value,
      complete: complete.checked,
      hide: boxes.filter(function (b) { return !b.checked; }).map(function (b) { return b.getAttribute("data-column"); }),
      sort: sorted ? sorted.getAttribute("data-column") : standard,
      dir: sorted ? sorted.getAttribute("aria-sort") : "descending"
    };
  }

  function remember(push) {
    var said = "#" + write(fromControls());
    if (said === (location.hash || "#")) { apply(); return; }
    /* Either way the browser answers with hashchange, which applies it. */
    if (push) { location.hash = said; } else { location.replace(said); }
  }

  /* ---- showing ---- */

  function choose(select, value) {
    select.value = value;
    if (select.selectedIndex < 0) { select.value = ""; }
  }

  function toControls(state) {
    Object.keys(texts).forEach(function (k) { if (texts[k].value.trim() !== state[k]) { texts[k].value = state[k]; } });
    Object.keys(picks).forEach(function (k) { choose(picks[k], state[k]); });
    complete.checked = state.complete;
    boxes.forEach(function (b) { b.checked = state.hide.indexOf(b.getAttribute("data-column")) < 0; });
  }

  var searched = new Map();
  function textOf(row) {
    if (!searched.has(row)) {
      var seen = row.cells[0].textContent + " " + row.cells[1].textContent + " " + row.getAttribute("data-search");
      searched.set(row, seen.toLowerCase());
    }
    return searched.get(row);
  }

  function matches(row, state, words) {
    var text = textOf(row);
    if (!words.every(function (w) { return text.indexOf(w) > -1; })) { return false; }
    if (state.by) {
      var at = state.by.indexOf(":");
      if (row.getAttribute("data-" + state.by.slice(0, at)) !== state.by.slice(at + 1)) { return false; }
    }
    if (state.source && row.getAttribute("data-source") !== state.source) { return false; }
    if (state.tier && row.getAttribute("data-tier") !== state.tier) { return false; }
    if (state.min || state.max) {
      /* In millions as printed: whoever asks for 1.4 has read "1.4 M". */
      var said = parseFloat(row.cells[columns.indexOf("params")].textContent.replace(/,/g, ""));
      if (isNaN(said)) { return false; }
      if (state.min && said < Number(state.min)) { return false; }
      if (state.max && said > Number(state.max)) { return false; }
    }
    return !state.complete || tasks.every(function (t) {
      return state.hide.indexOf(t) > -1 || row.cells[columns.indexOf(t)].hasAttribute("data-value");
    });
  }

  var hiddenNow = "";
  function showColumns(hide) {
    if (hide.join() === hiddenNow) { return; }
    hiddenNow = hide.join();
    list(table.rows).forEach(function (row) {
      if (row.cells.length !== columns.length) { return; }
      columns.forEach(function (c, i) { row.cells[i].hidden = hide.indexOf(c) > -1; });
    });
  }

  function apply() {
    var state = read();
    if (!state.dir) { state.dir = usual(state.sort); }
    toControls(state);
    /* What no control can show does not filter: rows would be gone with nothing to tell why. */
    Object.keys(picks).forEach(function (k) { state[k] = picks[k].value; });
    Object.keys(texts).forEach(function (k) { state[k] = texts[k].value.trim(); });
    var words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
    rows.forEach(function (row) { row.hidden = !matches(row, state, words); });
    showColumns(state.hide);
    var header = headers[columns.indexOf(state.sort)];
    if (header && header.getAttribute("aria-sort") !== state.dir) { window.EYECHART_SORT(table, header, state.dir); }
    if (state.sort !== uncovered) { uncover(header); }
    uncovered = state.sort;
    showRanks(state);
  }

  /* Scrolls the board sideways until a column is clear of the names, which stay, and of the edge. As served it is. */
  var uncovered = standard;
  function uncover(header) {
    var box = table.parentNode;
    var names = headers[0].offsetWidth;
    var left = header.offsetLeft;
    if (header === headers[0] || header.hidden) { return; }
    if (left - box.scrollLeft < names || left + header.offsetWidth - box.scrollLeft > box.clientWidth) {
      box.scrollLeft = left - names;
    }
  }

  function sorting(state) {
    var header = headers[columns.indexOf(state.sort)];
    var numeric = header.hasAttribute("data-numeric");
    var way = state.dir === "descending" ? (numeric ? "highest first" : "from Z") : (numeric ? "lowest first" : "from A");
    var title = (header.querySelector("button") || header).textContent.trim();
    return " Sorted by " + title + (header.hidden ? ", a hidden column, " : ", ") + way + ".";
  }

  /* ---- ranks of the rows that are left ---- */

  var served = ranked.map(function (row) {
    return list(row.querySelectorAll("span.rank")).map(function (s) { return [s, s.textContent]; });
  });
  /* Names of tasks and encoders are strangers': no key of theirs may meet one that every object has. */
  var files = new Map(JSON.parse(table.getAttribute("data-pairs")));
  var decoded = new Map();
  var asked = new Set();
  var failed = new Set();

  function restore() {
    served.forEach(function (found) { found.forEach(function (pair) { pair[0].textContent = pair[1]; }); });
  }

  function load(task, then) {
    if (asked.has(task)) { return; }
    asked.add(task);
    var script = document.createElement("script");
    script.src = files.get(task);
    script.addEventListener("load", then);
    script.addEventListener("error", function () { failed.add(task); then(); });
    document.head.appendChild(script);
  }

  function pairsOf(task) {
    var all = window.EYECHART_PAIRS;
    var said = all && Object.prototype.hasOwnProperty.call(all, task) ? all[task] : null;
    if (said && !decoded.has(task)) {
      var bytes = atob(said.p);
      var codes = new Uint16Array(bytes.length / 2);
      for (var i = 0; i < codes.length; i += 1) {
        codes[i] = bytes.charCodeAt(2 * i) + 256 * bytes.charCodeAt(2 * i + 1);
      }
      var place = new Map(said.encoders.map(function (e, n) { return [e, n]; }));
      decoded.set(task, { codes: codes, place: place, values: said.values, count: said.encoders.length });
    }
    return decoded.get(task);
  }

  function codeOf(pairs, i, j) {
    var a = Math.min(i, j);
    var b = Math.max(i, j);
    return pairs.codes[a * pairs.count - (a * (a + 1)) / 2 + b - a - 1];
  }

  /* The least code that Holm's procedure rejects; a difference is proven from it upwards. */
  function holm(codes) {
    var sorted = Uint16Array.from(codes).sort();
    var least = Infinity;
    for (var k = 0; k < sorted.length; k += 1) {
      var code = sorted[sorted.length - 1 - k];
      if (Math.exp(-code / SCALE) * (sorted.length - k) >= LEVEL) { break; }
      least = code;
    }
    return least;
  }

  function groups(order, differ) {
    var runs = [];
    for (var start = 0; start < order.length; start += 1) {
      var end = start + 1;
      while (end < order.length && order.slice(start, end).every(function (o) { return !differ(order[end], o); })) { end += 1; }
      if (!runs.length || end > runs[runs.length - 1][1]) { runs.push([start, end]); }
    }
    return runs;
  }

  function letter(n) { return (n >= 26 ? letter(Math.floor(n / 26) - 1) : "") + String.fromCharCode(97 + (n % 26)); }

  /* encoder -> [low, high, letters], as harness.comparison.rank has it. */
  function rank(pairs, encoders) {
    var here = encoders.filter(function (e) { return pairs.place.has(e); })
      .map(function (e) { return pairs.place.get(e); }).sort(function (a, b) { return a - b; });
    var codes = [];
    for (var a = 0; a < here.length; a += 1) {
      for (var b = a + 1; b < here.length; b += 1) { codes.push(codeOf(pairs, here[a], here[b])); }
    }
    var least = holm(codes);
    function differ(i, j) { return codeOf(pairs, i, j) >= least; }
    var order = here.slice().sort(function (i, j) { return pairs.values[j] - pairs.values[i] || i - j; });
    var runs = groups(order, differ);
    var found = new Map();
    here.forEach(function (i) {
      var better = 0;
      var worse = 0;
      here.forEach(function (j) {
        if (i === j || !differ(i, j)) { return; }
        if (pairs.values[j] > pairs.values[i]) { better += 1; } else if (pairs.values[j] < pairs.values[i]) { worse += 1; }
      });
      var at = order.indexOf(i);
      var letters = runs.map(function (r, n) { return r[0] <= at && at < r[1] ? letter(n) : ""; }).join("");
      found.set(i, [1 + better, here.length - worse, letters]);
    });
    return found;
  }

  function rankTask(task, shown) {
    var pairs = pairsOf(task);
    var column = columns.indexOf(task);
    var found = rank(pairs, shown.map(function (row) { return row.getAttribute("data-id"); }));
    shown.forEach(function (row) {
      var span = row.cells[column].querySelector("span.rank");
      var got = found.get(pairs.place.get(row.getAttribute("data-id")));
      if (!span || !got) { return; }
      span.textContent = "rank " + (got[0] === got[1] ? got[0] : got[0] + "\u2013" + got[1]) + " \u00b7 " + got[2];
    });
  }

  /* Old ranks must not stand beside new ones. */
  function blank(task, shown) {
    var column = columns.indexOf(task);
    shown.forEach(function (row) {
      var span = row.cells[column].querySelector("span.rank");
      if (span) { span.textContent = "rank unknown"; }
    });
    return " The pairs of " + task + " could not be read, so it has none.";
  }

  function count(n, noun) { return n.toLocaleString("en") + " " + noun + (n === 1 ? "" : "s"); }

  function showRanks(state) {
    var shown = ranked.filter(function (row) { return !row.hidden; });
    restore();
    var others = rows.filter(function (row) { return !row.hidden; }).length - shown.length;
    var words = "Showing " + count(shown.length, "ranked encoder") + " of " + ranked.length.toLocaleString("en")
      + (others ? " and " + count(others, "self-reported row") : "") + "." + sorting(state);
    if (!shown.length) { status.textContent = words + (others ? "" : " Nothing matches: Reset shows all."); return; }
    if (shown.length === ranked.length) { status.textContent = words; return; }
    if (shown.length > RANKED_UP_TO) {
      status.textContent = words + " Ranks are among all of them: leave " + RANKED_UP_TO + " rows or fewer to have them computed anew.";
      return;
    }
    words += " Ranks and tie groups are of these.";
    files.forEach(function (file, task) {
      if (state.hide.indexOf(task) > -1) { return; }
      if (failed.has(task)) { words += blank(task, shown); return; }
      if (pairsOf(task)) { rankTask(task, shown); } else { load(task, apply); }
    });
    status.textContent = words;
  }

  /* ---- events ---- */

  Object.keys(texts).forEach(function (k) { texts[k].addEventListener("input", function () { remember(false); }); });
  Object.keys(picks).forEach(function (k) { picks[k].addEventListener("change", function () { remember(true); }); });
  complete.addEventListener("change", function () { remember(true); });
  boxes.forEach(function (b) { b.addEventListener("change", function () { remember(true); }); });
  table.addEventListener("eyechart:sorted", function () { remember(true); });
  byId("f-reset").addEventListener("click", function () {
    if (location.hash && location.hash !== "#") { location.hash = ""; } else { apply(); }
  });
  window.addEventListener("hashchange", apply);
  var panel = byId("filters");
  panel.hidden = false;
  /* On a phone the rows come first. */
  if (window.matchMedia("(max-width: 48rem)").matches && !location.hash) { panel.open = false; }
  apply();
}());
