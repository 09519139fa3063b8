"use strict";
// Draws the figures from the top of the page down, so that a reader need not wait for the last one; draws them again in
// other colours when the page's colours change or it is printed.
(() => {
  const PAPER = 700; // pixels: the printable width of an A4 page
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const figures = read("figures");
  const themes = read("themes");
  const config = read("config");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const theme = () => themes[dark.matches ? "dark" : "light"];
  const places = Object.keys(figures).map((name) => document.getElementById(name));
  places.forEach((place) => { place.style.minHeight = `${figures[place.id].layout.height}px`; });
  let drawn = 0;

  const drawNext = () => {
    const place = places[drawn++];
    const { data, layout } = figures[place.id];
    Plotly.newPlot(place, data, { ...layout, template: theme() }, config);
  };
  const drawAll = () => {
    if (drawn === places.length) return;
    drawNext();
    setTimeout(drawAll);
  };
  const change = (layout) => places.slice(0, drawn).forEach((place) => Plotly.relayout(place, layout));

  drawAll();
  dark.addEventListener("change", () => change({ template: theme() }));
  window.addEventListener("beforeprint", () => {
    while (drawn < places.length) drawNext();
    change({ template: themes.light, width: PAPER, autosize: false });
  });
  window.addEventListener("afterprint", () => change({ template: theme(), width: null, autosize: true }));
})();
