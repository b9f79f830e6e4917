/* Sorts tables marked data-sortable. Without it the rows stay as served. */
(function () {
  "use strict";

  /* Order as served, which breaks ties: what a link shows must not hang on what was pressed before. */
  var served = new WeakMap();

  function sortKey(row, column, numeric) {
    var cell = row.cells[column];
    var text = cell ? cell.getAttribute("data-value") : null;
    if (numeric) {
      return text === null ? null : Number(text);
    }
    if (text !== null || !cell) { return text; }
    var name = cell.tagName === "TH" && cell.querySelector("a");
    return (name || cell).textContent.trim().toLowerCase();
  }

  function compare(a, b, sign) {
    /* Absent numbers stay last whichever way the column runs. */
    if (a.key === null || b.key === null) {
      return (a.key === null) - (b.key === null) || a.place - b.place;
    }
    if (a.key < b.key) { return -sign; }
    if (a.key > b.key) { return sign; }
    return a.place - b.place;
  }

  function columnOf(header) {
    return Array.prototype.indexOf.call(header.parentNode.cells, header);
  }

  /* Sorts the first body; `direction` is "ascending" or "descending". */
  function sortTable(table, header, direction) {
    var column = columnOf(header);
    var numeric = header.hasAttribute("data-numeric");
    var headers = table.tHead.rows[0].cells;
    for (var i = 0; i < headers.length; i += 1) { headers[i].removeAttribute("aria-sort"); }
    header.setAttribute("aria-sort", direction);
    var body = table.tBodies[0];
    var rows = Array.prototype.map.call(body.rows, function (row) {
      return { row: row, place: served.get(row), key: sortKey(row, column, numeric) };
    });
    var sign = direction === "ascending" ? 1 : -1;
    rows.sort(function (a, b) { return compare(a, b, sign); });
    var all = document.createDocumentFragment();
    rows.forEach(function (item) { all.appendChild(item.row); });
    body.appendChild(all);
  }

  function next(header) {
    var now = header.getAttribute("aria-sort");
    if (now) { return now === "descending" ? "ascending" : "descending"; }
    return header.hasAttribute("data-numeric") ? "descending" : "ascending";
  }

  function makeSortable(table) {
    Array.prototype.forEach.call(table.tBodies[0].rows, function (row, place) { served.set(row, place); });
    Array.prototype.forEach.call(table.tHead.rows[0].cells, function (header) {
      var button = document.createElement("button");
      button.type = "button";
      /* The label alone is pressed; what else stands in the header stays beside it. */
      button.appendChild(header.querySelector("span") || document.createTextNode(header.textContent));
      button.addEventListener("click", function () {
        sortTable(table, header, next(header));
        table.dispatchEvent(new CustomEvent("eyechart:sorted", { detail: header }));
      });
      if (button.firstChild.nodeType === 3) { header.textContent = ""; }
      header.insertBefore(button, header.firstChild);
    });
  }

  window.EYECHART_SORT = sortTable;
  Array.prototype.forEach.call(document.querySelectorAll("table[data-sortable]"), makeSortable);
}());
