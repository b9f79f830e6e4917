/* Sorts tables marked data-sortable. Without it the rows stay as served. */
(function () {
  "use strict";

  function sortKey(row, column, numeric) {
    var cell = row.cells[column];
    var text = cell.getAttribute("data-value");
    if (numeric) {
      return text === null ? null : Number(text);
    }
    return text === null ? cell.textContent.trim().toLowerCase() : text;
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

  function sortTable(table, header, column) {
    var numeric = header.hasAttribute("data-numeric");
    var now = header.getAttribute("aria-sort");
    var next = now ? (now === "descending" ? "ascending" : "descending") : (numeric ? "descending" : "ascending");
    var headers = table.tHead.rows[0].cells;
    for (var i = 0; i < headers.length; i += 1) { headers[i].removeAttribute("aria-sort"); }
    header.setAttribute("aria-sort", next);
    var body = table.tBodies[0];
    var rows = Array.prototype.map.call(body.rows, function (row, place) {
      return { row: row, place: place, key: sortKey(row, column, numeric) };
    });
    rows.sort(function (a, b) { return compare(a, b, next === "ascending" ? 1 : -1); });
    var all = document.createDocumentFragment();
    rows.forEach(function (item) { all.appendChild(item.row); });
    body.appendChild(all);
  }

  function makeSortable(table) {
    Array.prototype.forEach.call(table.tHead.rows[0].cells, function (header, column) {
      var button = document.createElement("button");
      button.type = "button";
      while (header.firstChild) { button.appendChild(header.firstChild); }
      button.addEventListener("click", function () { sortTable(table, header, column); });
      header.appendChild(button);
    });
  }

  Array.prototype.forEach.call(document.querySelectorAll("table[data-sortable]"), makeSortable);
}());
