/* The table of all runs: sorts and filters the columns of data/runs.js. Where the page was served with a part of
   the rows only, those in view are drawn, all of one height; else all are. Without it the rows stay as served. */
(function () {
  "use strict";

  var data = window.EYECHART_RUNS;
  var table = document.getElementById("runs");
  var view = document.getElementById("runs-view");
  var input = document.getElementById("runs-filter");
  var status = document.getElementById("runs-status");
  if (!data || !table || !data.rows) { return; }

  var EXTRA = 4; /* rows drawn beyond each edge of the view */
  var NAMES = Array.prototype.map.call(table.tHead.rows[0].cells, function (header) {
    return header.getAttribute("data-column");
  });
  var NUMBERS = ["seed", "value", "num_expected", "num_scored", "num_unparsed", "num_error", "num_missing"];
  var HASHES = { run_key: 16, bundle_digest: 12 };
  var total = data.rows;
  var columns = data.columns;
  var body = table.tBodies[0];
  var whole = body.rows.length === total;
  var rowHeight = 0;
  var drawn = { from: -1, to: -1 };
  var shown = new Uint32Array(0);
  var state = { sort: "", down: false, filter: "" };
  var orders = {};
  var lines = []; /* the rows drawn */
  var later = 0;
  var above = null, below = null;

  function hash(name, row) {
    var width = HASHES[name];
    return columns[name].substr(row * width, width);
  }

  function isNumber(name) { return NUMBERS.indexOf(name) >= 0; }

  /* Rows by a column, ascending, ties as served; absent numbers last. Made once a column. */
  function ascending(name) {
    if (orders[name]) { return orders[name]; }
    var order = new Uint32Array(total), keys, i;
    for (i = 0; i < total; i += 1) { order[i] = i; }
    if (HASHES[name]) {
      keys = [];
      for (i = 0; i < total; i += 1) { keys.push(hash(name, i)); }
      order.sort(function (a, b) { return keys[a] < keys[b] ? -1 : keys[a] > keys[b] ? 1 : a - b; });
    } else {
      /* Words are sorted in the dictionary, so their codes order them. */
      keys = new Float64Array(total);
      for (i = 0; i < total; i += 1) {
        var value = isNumber(name) ? columns[name][i] : columns[name].codes[i];
        keys[i] = value === null ? Infinity : value;
      }
      order.sort(function (a, b) { return keys[a] === keys[b] ? a - b : keys[a] < keys[b] ? -1 : 1; });
    }
    orders[name] = order;
    return order;
  }

  function sorted(name, down) {
    if (!down) { return ascending(name); }
    if (!orders["-" + name]) { orders["-" + name] = descending(name, ascending(name)); }
    return orders["-" + name];
  }

  function descending(name, order) {
    var known = total, turned = new Uint32Array(total), place = 0, start, end, i;
    if (isNumber(name)) { while (known > 0 && columns[name][order[known - 1]] === null) { known -= 1; } }
    var key = HASHES[name] ? function (row) { return hash(name, row); } :
      isNumber(name) ? function (row) { return columns[name][row]; } :
        function (row) { return columns[name].codes[row]; };
    /* Runs of equal keys keep the order of the page. */
    for (end = known; end > 0; end = start) {
      start = end - 1;
      while (start > 0 && key(order[start - 1]) === key(order[end - 1])) { start -= 1; }
      for (i = start; i < end; i += 1) { turned[place] = order[i]; place += 1; }
    }
    for (i = known; i < total; i += 1) { turned[i] = order[i]; }
    return turned;
  }

  /* What is searched of each word of a column: the word, and the id that its page is named by. */
  function searched(column) {
    if (!column.seen) {
      column.seen = column.words.map(function (text, i) {
        var page = column.hrefs ? column.hrefs[i].replace(/^.*\//, "").replace(/\.html$/, "") : "";
        return (text + "\n" + page).toLowerCase();
      });
    }
    return column.seen;
  }

  /* 1 for each row that fits a word: a word of its cells, or the beginning of a hash. */
  function fits(word) {
    var found = new Uint8Array(total), row;
    ["encoder", "task", "protocol", "tier", "engine"].forEach(function (name) {
      var column = columns[name];
      var good = searched(column).map(function (text) { return text.indexOf(word) >= 0; });
      if (good.indexOf(true) < 0) { return; }
      for (row = 0; row < total; row += 1) { if (good[column.codes[row]]) { found[row] = 1; } }
    });
    if (/^[0-9a-f]+$/.test(word)) {
      Object.keys(HASHES).forEach(function (name) {
        var all = columns[name], width = HASHES[name];
        for (row = 0; row < total; row += 1) { if (all.startsWith(word, row * width)) { found[row] = 1; } }
      });
    }
    return found;
  }

  function seedFits(seed) {
    return Uint8Array.from(columns.seed, function (value) { return value === seed ? 1 : 0; });
  }

  function masks(filter) {
    var found = [];
    var words = filter.toLowerCase().replace(/\bseed\s+(\d+)/g, function (_, seed) {
      found.push(seedFits(Number(seed)));
      return " ";
    });
    words.split(/\s+/).forEach(function (word) { if (word) { found.push(fits(word)); } });
    return found;
  }

  function select() {
    var order = state.sort ? sorted(state.sort, state.down) : null;
    var all = masks(state.filter), kept = new Uint32Array(total), count = 0, i, row, m;
    for (i = 0; i < total; i += 1) {
      row = order ? order[i] : i;
      for (m = 0; m < all.length && all[m][row]; m += 1) { /* all must fit */ }
      if (m === all.length) { kept[count] = row; count += 1; }
    }
    shown = kept.subarray(0, count);
  }

  function perCent(value) {
    var points = 100 * value, tenths = Math.floor(points * 10);
    /* The pages round a tie to the even digit; toFixed would round it up. */
    var tie = Math.abs(points * 4 % 2) === 1;
    var text = tie ? ((tenths + Math.abs(tenths % 2)) / 10).toFixed(1) : points.toFixed(1);
    return text === "-0.0" ? "0.0" : text;
  }

  /* An empty row. Rows are made once and filled again: that is half the work of making them anew. */
  function makeRow() {
    var line = document.createElement("tr");
    NAMES.forEach(function (name, number) {
      var cell = document.createElement(number ? "td" : "th"), inner = null;
      if (!number) { cell.scope = "row"; }
      cell.className = isNumber(name) ? "score" : HASHES[name] ? "hash" : "c-" + name;
      if (name === "value") { inner = document.createElement("span"); }
      if (HASHES[name]) { inner = document.createElement("code"); }
      if (columns[name].hrefs) { inner = document.createElement("a"); }
      if (inner) { cell.appendChild(inner); }
      (inner || cell).appendChild(document.createTextNode(""));
      line.appendChild(cell);
    });
    return line;
  }

  function words(name, row) {
    var value = columns[name][row];
    if (name === "value") { return value === null ? "incomplete" : perCent(value); }
    if (name === "seed") { return String(value); }
    if (isNumber(name)) { return value < 1000 ? String(value) : value.toLocaleString("en-US"); }
    return HASHES[name] ? hash(name, row) : columns[name].words[columns[name].codes[row]];
  }

  function fill(line, place) {
    var row = shown[place];
    line.setAttribute("aria-rowindex", String(place + 2));
    line.setAttribute("data-row", String(row));
    NAMES.forEach(function (name, number) {
      var holder = line.cells[number].firstChild, text = words(name, row);
      var node = holder.nodeType === 3 ? holder : holder.firstChild;
      if (node.data !== text) { node.data = text; }
      if (whole && isNumber(name)) {
        if (columns[name][row] === null) {
          line.cells[number].removeAttribute("data-value");
        } else {
          line.cells[number].setAttribute("data-value", columns[name][row]);
        }
      }
      if (name === "value") { holder.className = columns.value[row] === null ? "absent" : "num"; }
      if (columns[name].hrefs) {
        holder.setAttribute("href", columns[name].hrefs[columns[name].codes[row]]);
        holder.setAttribute("title", text); /* a long one is cut off */
      }
    });
  }

  /* Stands for the rows above or below those drawn. */
  function makeSpacer() {
    var line = document.createElement("tr"), cell = document.createElement("td");
    line.className = "spacer";
    line.setAttribute("aria-hidden", "true");
    cell.colSpan = NAMES.length;
    line.appendChild(cell);
    return line;
  }

  /* The link that has the focus keeps it while its row is drawn; else the view has it. */
  function focused() {
    var active = document.activeElement;
    if (!active || !body.contains(active)) { return null; }
    var cell = active.closest("td, th");
    return { row: cell.parentNode.getAttribute("data-row"), column: cell.cellIndex };
  }

  function refocus(was) {
    if (!was) { return; }
    var line = body.querySelector('tr[data-row="' + was.row + '"]');
    var target = line ? line.cells[was.column].querySelector("a") : view;
    target.focus({ preventScroll: true });
  }

  function draw(force) {
    if (whole && !force) { return; }
    var from = Math.max(0, Math.floor(view.scrollTop / rowHeight) - EXTRA);
    /* While few rows are drawn the view is low; the style sheet lets it grow to this. */
    var height = Math.max(view.clientHeight, Math.min(0.75 * window.innerHeight, 960));
    var to = Math.min(shown.length, Math.ceil((view.scrollTop + height) / rowHeight) + EXTRA);
    from = whole ? 0 : Math.min(from, to);
    to = whole ? shown.length : to;
    if (!force && from === drawn.from && to === drawn.to) { return; }
    var was = focused(), place;
    while (lines.length < to - from) {
      lines.push(makeRow());
      body.insertBefore(lines[lines.length - 1], whole ? null : below);
    }
    while (lines.length > to - from) { lines.pop().remove(); }
    for (place = from; place < to; place += 1) { fill(lines[place - from], place); }
    above.cells[0].style.height = from * rowHeight + "px";
    below.cells[0].style.height = (shown.length - to) * rowHeight + "px";
    drawn = { from: from, to: to };
    refocus(was);
  }

  function announce() {
    var many = shown.length.toLocaleString("en-US"), all = total.toLocaleString("en-US");
    status.textContent = (shown.length === total ? all : many + " of " + all) + (total === 1 ? " run." : " runs.") +
      (shown.length ? "" : " Nothing fits: Reset shows all.");
    table.setAttribute("aria-rowcount", String(shown.length + 1));
    Array.prototype.forEach.call(table.tHead.rows[0].cells, function (header) {
      if (header.getAttribute("data-column") === state.sort) {
        header.setAttribute("aria-sort", state.down ? "descending" : "ascending");
      } else {
        header.removeAttribute("aria-sort");
      }
    });
  }

  function update() {
    select();
    view.scrollTop = 0;
    draw(true);
    announce();
  }

  function write() {
    var parts = new URLSearchParams();
    if (state.sort) { parts.set("sort", (state.down ? "-" : "") + state.sort); }
    if (state.filter) { parts.set("filter", state.filter); }
    return "#" + parts.toString();
  }

  function read() {
    var parts = new URLSearchParams(window.location.hash.slice(1));
    var sort = parts.get("sort") || "", down = sort.charAt(0) === "-";
    sort = down ? sort.slice(1) : sort;
    state.sort = NAMES.indexOf(sort) >= 0 ? sort : "";
    state.down = state.sort !== "" && down;
    state.filter = parts.get("filter") || "";
    input.value = state.filter;
    update();
  }

  function keep() {
    window.clearTimeout(later);
    window.history.replaceState(null, "", write());
  }

  function press(name) {
    var first = isNumber(name);
    keep();
    state.down = state.sort === name ? !state.down : first;
    state.sort = name;
    window.history.pushState(null, "", write());
    update();
  }

  Array.prototype.forEach.call(table.tHead.rows[0].cells, function (header) {
    var button = document.createElement("button");
    button.type = "button";
    while (header.firstChild) { button.appendChild(header.firstChild); }
    button.addEventListener("click", function () { press(header.getAttribute("data-column")); });
    header.appendChild(button);
  });
  input.addEventListener("input", function () {
    state.filter = input.value.trim();
    update();
    /* Browsers refuse an address that changes with every key. */
    window.clearTimeout(later);
    later = window.setTimeout(keep, 300);
  });
  document.getElementById("runs-reset").addEventListener("click", function () {
    keep();
    window.history.pushState(null, "", "#");
    read();
  });
  function resize() {
    rowHeight = lines.length ? lines[0].getBoundingClientRect().height : rowHeight;
    draw(true);
  }

  document.querySelector(".runs-tools").hidden = false;
  above = makeSpacer();
  below = makeSpacer();
  if (whole) {
    body.replaceChildren();
  } else {
    table.classList.add("virtual");
    view.classList.add("virtual");
    rowHeight = body.rows[0].getBoundingClientRect().height;
    body.replaceChildren(above, below);
    view.addEventListener("scroll", function () { draw(false); }, { passive: true });
    window.addEventListener("resize", resize);
  }
  window.addEventListener("popstate", read);
  window.addEventListener("hashchange", read);
  read();
}());
