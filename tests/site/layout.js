/* What is wrong with a page's layout, as a list of sentences. Evaluated in the page by layout.py. */
(function () {
  "use strict";
  var faults = [];

  function name(element) {
    var text = (element.textContent || "").trim().slice(0, 40);
    var kind = element.getAttribute("class");
    return "<" + element.tagName.toLowerCase() + (kind ? " class=" + kind : "") + "> " + JSON.stringify(text);
  }

  function unseen(element) {
    /* For ears or the keyboard only, or folded away. */
    var box = element.getBoundingClientRect();
    return element.closest(".unseen, .skip") !== null || box.width < 2 || !element.checkVisibility();
  }

  function holder(element, kinds) {
    /* The nearest element around that clips or scrolls sideways. */
    for (var outer = element; outer && outer !== document.body; outer = outer.parentElement) {
      if (kinds.indexOf(getComputedStyle(outer).overflowX) >= 0) { return outer; }
    }
    return null;
  }

  function textBox(node) {
    var range = document.createRange();
    range.selectNodeContents(node);
    return range.getBoundingClientRect();
  }

  function outside(node, left, right) {
    /* The letters that leave a span of the screen, "" if none does. */
    var box = textBox(node);
    if (box.right <= right + 1 && box.left >= left - 1) { return ""; }
    var range = document.createRange();
    for (var i = 0; i < node.length; i += 1) {
      range.setStart(node, i);
      range.setEnd(node, i + 1);
      box = range.getBoundingClientRect();
      if (box.width && (box.right > right + 1 || box.left < left - 1)) { break; }
    }
    return JSON.stringify(node.data.slice(Math.max(0, i - 10), i + 20)) + " of " + name(node.parentElement);
  }

  var page = document.scrollingElement;
  if (page.scrollWidth > window.innerWidth) {
    faults.push("the page scrolls sideways: " + page.scrollWidth + " in " + window.innerWidth + " px");
  }

  var walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    var parent = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || parent.closest("svg, script, style, noscript") || unseen(parent)) {
      continue;
    }
    var node = walker.currentNode, edge, out;
    var clipper = holder(parent, ["hidden", "clip", "auto", "scroll"]);
    var clips = clipper && ["hidden", "clip"].indexOf(getComputedStyle(clipper).overflowX) >= 0;
    if (clips) {
      edge = clipper.getBoundingClientRect();
      out = outside(node, edge.left, edge.right);
      if (out) { faults.push("clipped: " + out); }
    } else if (!clipper) {
      out = outside(node, 0, window.innerWidth);
      if (out) { faults.push("off the page: " + out); }
    }
    var cell = parent.closest("th, td");
    if (cell && cell !== clipper && !cell.querySelector("table")) {
      edge = cell.getBoundingClientRect();
      out = outside(node, edge.left, edge.right);
      if (out) { faults.push("runs out of its cell: " + out); }
    }
  }

  Array.prototype.forEach.call(document.querySelectorAll("table"), function (table) {
    /* Columns stand under their headers, unless the table is laid out as a list (narrow screens). */
    if (getComputedStyle(table).display !== "table" || !table.tHead || unseen(table)) { return; }
    var heads = table.tHead.rows[0].cells;
    Array.prototype.forEach.call(table.rows, function (row) {
      if (row.cells.length !== heads.length) { return; }
      for (var i = 0; i < heads.length; i += 1) {
        if (heads[i].colSpan !== 1 || row.cells[i].colSpan !== 1) { return; }
        var apart = Math.abs(heads[i].getBoundingClientRect().left - row.cells[i].getBoundingClientRect().left);
        if (apart > 1) { faults.push("column " + i + " is " + apart + " px from its header: " + name(row)); }
      }
    });
  });
  return faults;
}())
