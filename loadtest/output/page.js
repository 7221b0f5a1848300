// Draws each chart into its place. Colours are the style sheet's variables, so light, dark and print need nothing here.
const charts = JSON.parse(document.getElementById("charts").textContent);
const isNarrow = window.innerWidth < 600;
const isFinger = window.matchMedia("(pointer: coarse)").matches;

// A finger scrolls the page; only what points exactly may zoom.
function withoutZoom(value) {
  if (Array.isArray(value)) return value.map(withoutZoom);
  if (value === null || typeof value !== "object") return value;
  const copy = Object.fromEntries(Object.entries(value).map(([key, each]) => [key, withoutZoom(each)]));
  if (Array.isArray(value.params)) copy.params = value.params.filter((each) => each.name !== "zoom");
  return copy;
}

// A press shows one line alone; the second shows all again.
function connectLegend(legend, view) {
  const buttons = [...(legend?.querySelectorAll("button") ?? [])];
  for (const button of buttons) {
    button.addEventListener("click", () => {
      const isAlone = button.getAttribute("aria-pressed") !== "true";
      for (const each of buttons) each.setAttribute("aria-pressed", String(isAlone && each === button));
      view.signal("shown", isAlone ? button.dataset.name : null).runAsync();
    });
  }
}

for (const place of document.querySelectorAll("[data-chart]")) {
  let chart = charts[place.dataset.chart];
  if (isFinger) chart = withoutZoom(chart);
  const config = isNarrow ? { axis: { labelFontSize: 10, titleFontSize: 11 } } : {};
  try {
    const { view } = await vegaEmbed(place, chart, { renderer: "svg", actions: false, config });
    place.classList.add("drawn");
    connectLegend(place.parentElement.querySelector(".legend"), view);
  } catch (error) {
    place.textContent = `This chart could not be drawn: ${error}`;
  }
}
document.documentElement.dataset.ready = "true";
