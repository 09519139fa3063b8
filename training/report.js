"use strict";
// Draws every figure of the page in the colours of the page, and again when those change or the page is printed.
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const figures = read("figures");
  const themes = read("themes");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const config = read("config");
  const theme = () => themes[dark.matches ? "dark" : "light"];
  const each = (change) => Object.keys(figures).forEach((name) => change(document.getElementById(name), name));

  each((place, name) => {
    const { data, layout } = figures[name];
    place.style.minHeight = `${layout.height}px`;
    Plotly.newPlot(place, data, { ...layout, template: theme() }, config);
  });
  const PAPER = 700; // pixels: the printable width of an A4 page
  dark.addEventListener("change", () => each((place) => Plotly.relayout(place, { template: theme() })));
  window.addEventListener("beforeprint", () =>
    each((place) => Plotly.relayout(place, { template: themes.light, width: PAPER, autosize: false })));
  window.addEventListener("afterprint", () =>
    each((place) => Plotly.relayout(place, { template: theme(), width: null, autosize: true })));
})();
