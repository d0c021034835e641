"use strict";
// What the pages do by themselves: the theme, live updates, charts, and where the focus goes after a swap.

const main = document.getElementById("main");

// Theme: auto, light, dark. The cookie lets the server render the choice, so that nothing flashes.
const themes = ["auto", "light", "dark"];
const root = document.documentElement;
const button = document.querySelector("[data-theme-button]");
function showTheme() {
  button.textContent = "Theme: " + (root.dataset.theme || "auto");
}
button.addEventListener("click", () => {
  const next = themes[(themes.indexOf(root.dataset.theme || "auto") + 1) % themes.length];
  if (next === "auto") delete root.dataset.theme;
  else root.dataset.theme = next;
  const age = next === "auto" ? 0 : 31536000;
  document.cookie = `deltamem_theme=${next}; Path=/; Max-Age=${age}; SameSite=Strict`;
  showTheme();
  drawCharts();
});
showTheme();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawCharts());

// Failures: only our own pages are put into a page; everything else is told as text.
const notice = document.getElementById("notice");
let hiding = 0;
function tell(text) {
  notice.textContent = text;
  notice.hidden = false;
  clearTimeout(hiding);
  hiding = setTimeout(() => { notice.hidden = true; }, 12000);
}
document.addEventListener("htmx:beforeSwap", (event) => {
  const answer = event.detail.xhr;
  const kind = answer.getResponseHeader("content-type") || "";
  if (answer.status === 204 || kind.startsWith("text/html")) return;
  event.detail.shouldSwap = false;
  let told = `The server answered ${answer.status}.`;
  try { told = JSON.parse(answer.responseText).detail || told; } catch { /* not JSON */ }
  tell(told);
});
document.addEventListener("htmx:sendError", () => tell("The server cannot be reached."));

// Focus: what a swap brings may ask for it, so that keyboard and screen reader go on from there.
document.addEventListener("htmx:afterSettle", () => {
  const target = document.querySelector("[data-focus]");
  if (!target) return;
  target.focus({ preventScroll: target.classList.contains("hidden") });
  target.removeAttribute("data-focus");
});

// Live: an event says that something changed; the page then fetches what it shows, at most every five seconds.
const live = document.getElementById("live");
const stale = document.getElementById("stale");
const SECONDS = 5;
let source = null;
let known = null;
let due = 0;
let fetched = 0;
function follow() {
  if (!main.dataset.events || source || document.hidden) return;
  source = new EventSource(main.dataset.events);
  const seen = (event) => {
    showLive("on");
    if (known !== null && event.data !== known) changed();
    known = event.data;
  };
  source.addEventListener("hello", seen);
  source.addEventListener("change", seen);
  source.addEventListener("error", () => {
    showLive("off");
    if (source && source.readyState === EventSource.CLOSED) source = null;
  });
}
function showLive(state) {
  if (live.dataset.state === state) return;
  live.dataset.state = state;
  live.textContent = state === "on" ? "Live" : "Not live";
}
function changed() {
  clearTimeout(due);
  due = setTimeout(refresh, Math.max(0, fetched + SECONDS * 1000 - Date.now()));
}
function refresh() {
  fetched = Date.now();
  const target = main.dataset.tab === "agents" ? "#agents" : main.dataset.follow;
  const place = target && document.querySelector(target);
  const busy = place && (place.contains(document.activeElement) || scrollY > 200);
  if (place && !busy) htmx.ajax("GET", location.pathname + location.search, { target: target, swap: "innerHTML" });
  else if (stale) stale.hidden = false;
}
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) return follow();
  if (source) source.close();
  source = null;
});
addEventListener("pagehide", () => { if (source) source.close(); source = null; });
addEventListener("pageshow", follow);

// Charts
const charts = [];
function colour(name, place) {
  const probe = document.createElement("span");
  probe.className = name;
  place.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}
function drawCharts() {
  if (typeof uPlot === "undefined") return;
  while (charts.length) charts.pop().destroy();
  for (const place of document.querySelectorAll("[data-series]")) {
    const [positions, saturation, fullness] = JSON.parse(place.dataset.series);
    const percent = (plot, value) => (value == null ? "–" : `${value.toFixed(1)} %`);
    const line = (label, kind, dash) => ({
      label, value: percent, stroke: colour(kind, place), width: 2, dash, points: { show: positions.length < 30 },
    });
    const axis = {
      stroke: getComputedStyle(place).color, grid: { stroke: colour("grid", place), width: 1 }, ticks: { show: false },
      font: "12px Inter, system-ui, sans-serif",
    };
    const shown = fullness.some((each) => each !== null);
    const series = [{ label: "Position", value: (plot, value) => (value == null ? "–" : `#${value}`) }, line("Saturation", "one")];
    if (shown) series.push(line("Fullness", "two", [6, 4]));
    charts.push(new uPlot({
      width: place.clientWidth, height: 13 * parseFloat(getComputedStyle(root).fontSize), series,
      scales: { x: { time: false }, y: { range: (plot, low, high) => [0, Math.max(100, high)] } },
      axes: [{ ...axis, values: (plot, at) => at.map((each) => (Number.isInteger(each) ? `#${each}` : "")) },
        { ...axis, size: 52, values: (plot, at) => at.map((each) => `${each} %`) }],
      cursor: { drag: { x: false, y: false } },
    }, shown ? [positions, saturation, fullness] : [positions, saturation], place));
  }
}
drawCharts();
let resizing = 0;
addEventListener("resize", () => { clearTimeout(resizing); resizing = setTimeout(drawCharts, 150); });
