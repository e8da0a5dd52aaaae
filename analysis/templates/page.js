(function () {
  "use strict";
  var root = document.documentElement, themes = ["auto", "light", "dark"], KEY = "calm-theme";
  function stored() { try { return localStorage.getItem(KEY); } catch (error) { return null; } }
  function show(theme, button) {
    if (theme === "auto") root.removeAttribute("data-theme"); else root.setAttribute("data-theme", theme);
    if (button) button.textContent = "Colours: " + theme;
  }
  var theme = themes.indexOf(stored()) < 0 ? "auto" : stored();
  show(theme);

  // a number at the start of a cell: 3.2 ± 0.1, 1.20×10¹², 1.2e13, −0.42 [−0.8, 0.1], 12,345, [0, 1.30] (by its end)
  var SMALL = "⁻⁰¹²³⁴⁵⁶⁷⁸⁹", PLAIN = "-0123456789";
  function value(text) {
    var words = text.trim().replace(/[−–](?=[\d.∞])/g, "-").replace(/[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]/g, function (c) { return PLAIN[SMALL.indexOf(c)]; });
    var bound = /^\[0, (-?[\d.,]+)\]/.exec(words);
    if (bound) words = bound[1];
    if (/^[+-]?∞/.test(words)) return words[0] === "-" ? -Infinity : Infinity;
    var found = /^[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?/.exec(words), rest, power;
    if (!found || !/\d/.test(found[0])) {
      power = /^10(-?\d+)$/.exec(words);
      return power ? Math.pow(10, Number(power[1])) : null;
    }
    rest = words.slice(found[0].length);
    power = /^(?:×10|[eE])([+-]?\d+)/.exec(rest);
    return Number(found[0].replace(/,/g, "")) * (power ? Math.pow(10, Number(power[1])) : 1);
  }
  function missing(text) { return /^(|–|—|none|nan)$/i.test(text.trim()); }
  function order(cells, down) {
    var texts = cells.map(function (cell) { return cell.textContent; });
    var values = texts.map(function (text) { return missing(text) ? null : value(text); });
    var present = texts.filter(function (text) { return !missing(text); });
    var numeric = present.length > 0 && values.filter(function (v) { return v !== null; }).length === present.length;
    var compare = new Intl.Collator("en", { numeric: true }).compare;
    return texts.map(function (_, i) { return i; }).sort(function (i, j) {
      var absent = missing(texts[i]) - missing(texts[j]);
      if (absent) return absent; // last, whichever way
      var by = numeric ? (values[i] === values[j] ? 0 : values[i] < values[j] ? -1 : 1) : compare(texts[i], texts[j]);
      return (down ? -by : by) || i - j;
    });
  }
  function sortable(table) {
    var body = table.tBodies[0], rows = Array.prototype.slice.call(body.rows), heads = Array.prototype.slice.call(table.tHead.rows[0].cells);
    if (rows.length < 2) return;
    heads.forEach(function (head, column) {
      var button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent || "name";
      head.textContent = "";
      head.appendChild(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", function () {
        if (table.hasAttribute("data-grouped")) fill(rows, table);
        var now = head.getAttribute("aria-sort"), next = now === "none" ? "ascending" : now === "ascending" ? "descending" : "none";
        heads.forEach(function (other) { other.setAttribute("aria-sort", "none"); });
        head.setAttribute("aria-sort", next);
        var cells = rows.map(function (row) { return row.cells[column]; });
        var places = next === "none" ? rows.map(function (_, i) { return i; }) : order(cells, next === "descending");
        places.forEach(function (i) { body.appendChild(rows[i]); });
      });
    });
  }
  function fill(rows, table) { // a group is named in its first row only: every row needs the name once they move
    table.removeAttribute("data-grouped");
    rows.forEach(function (row, i) {
      if (i && !row.cells[0].textContent.trim()) row.cells[0].textContent = rows[i - 1].cells[0].textContent;
    });
  }
  document.addEventListener("DOMContentLoaded", function () {
    var tools = document.querySelector(".tools");
    if (tools) {
      var button = document.createElement("button");
      button.type = "button";
      show(theme, button);
      button.addEventListener("click", function () {
        theme = themes[(themes.indexOf(theme) + 1) % themes.length];
        show(theme, button);
        try { localStorage.setItem(KEY, theme); } catch (error) { /* a page from a file may not store anything */ }
      });
      tools.appendChild(button);
    }
    Array.prototype.forEach.call(document.querySelectorAll("main table"), sortable);
  });
})();
