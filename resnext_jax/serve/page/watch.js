// Reads the run again and again, and draws its curves.

const SECONDS = 5;
const STOPPED_AFTER = 5;  // times what an epoch takes
const METRICS = {
  top1: { title: "Top-1 accuracy, %", name: "top-1", scale: 100, most: 100 },
  loss: { title: "Loss", name: "loss", scale: 1, most: Infinity },
  balanced_accuracy: { title: "Balanced accuracy, %", name: "balanced accuracy", scale: 100, most: 100 },
  macro_f1: { title: "Macro F1", name: "macro F1", scale: 1, most: 1 },
  roc_auc: { title: "ROC-AUC", name: "ROC-AUC", scale: 1, most: 1 },
};
const SPLITS = { train: "training", val: "validation" };
const HEIGHT = 240;
const EPOCH_LABEL = 60;  // pixels
const MARGIN = { left: 46, right: 10, top: 8, bottom: 24 };
// Above this ratio of the largest to the smallest loss, a few bad epochs would hide all the others.
const LOG_RATIO = 50;

const byId = (id) => document.getElementById(id);
const finite = Number.isFinite;
let run = null;

function svg(name, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

async function read() {
  let answer;
  try {
    const response = await fetch("run");
    answer = await response.json();
    if (!response.ok) throw new Error(answer.error);
  } catch (error) {
    byId("status").textContent = answer?.error ?? `The server does not answer (${error.message}).`;
    return;
  }
  const changed = JSON.stringify(answer.history) !== JSON.stringify(run?.history);
  const pictured = answer.pictures !== run?.pictures;
  run = answer;
  describe();
  if (pictured) await showPictures();
  if (changed) {
    for (const chart of document.querySelectorAll(".chart")) draw(chart);
    tabulate();
  }
}

function describe() {
  const { history, epochs, best, finished } = run;
  document.title = `${run.run}: epoch ${history.length}${epochs ? ` of ${epochs}` : ""}`;
  byId("run").textContent = run.run;
  byId("about").textContent = `${run.model}, ${run.classes.length} classes`;
  byId("classify").hidden = !run.classifies;
  // What makes an epoch the best has a chart of its own, unless it is drawn already.
  const drawn = ["top1", "loss"].includes(run.monitor) || !METRICS[run.monitor];
  byId("monitored").hidden = drawn;
  byId("monitored").dataset.metric = drawn ? "" : run.monitor;
  byId("progress").hidden = !epochs || finished;
  byId("progress").value = epochs ? history.length / epochs : 0;
  const total = epochs && !finished ? ` of ${epochs}` : "";
  const parts = [history.length ? `Epoch ${history.length}${total} is done` : "No epoch is done yet"];
  if (finished) parts[0] = `Finished after ${history.length} epochs`;
  const row = history.find((each) => each.epoch === best);
  const told = [...new Set([run.monitor, "top1", "loss"])].filter((metric) => METRICS[metric]);
  const figures = told.map((metric) => `${METRICS[metric].name} ${format(metric, row?.[`val_${metric}`])}`);
  if (row) parts.push(`the best is epoch ${best}: ${figures.join(", ")}`);
  // Screen readers tell every change: what changes all the time stands below.
  const said = parts.join("; ");
  if (byId("status").textContent !== said) byId("status").textContent = said;
  byId("age").textContent = finished ? "" : age();
}

// The directory does not say whether the run is still under way; a reader can tell by this.
function age() {
  const { history, seconds_since_epoch: seconds } = run;
  if (!history.length) return "";
  const usual = history.at(-1).seconds;
  const stopped = finite(usual) && seconds > STOPPED_AFTER * usual + 60 ? " It seems to have stopped." : "";
  return `${duration(seconds)} ago.${finite(usual) ? ` An epoch takes ${duration(usual)}.` : ""}${stopped}`;
}

function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function format(metric, value) {
  if (!finite(value)) return "not finite";
  return METRICS[metric].scale === 1 ? value.toPrecision(4) : `${(100 * value).toFixed(1)} %`;
}

function draw(chart) {
  const { metric } = chart.dataset;
  if (!metric) return;
  const { title, scale, most } = METRICS[metric];
  const series = splitsOf(metric).map((split) => ({
    split,
    points: run.history
      .map((row) => ({ epoch: row.epoch, value: scale * (row[`${split}_${metric}`] ?? NaN) }))
      .filter(({ value }) => finite(value)),
  }));
  const values = series.flatMap(({ points }) => points.map(({ value }) => value));
  const heading = document.createElement("h2");
  chart.replaceChildren(heading);
  heading.textContent = title;
  if (!values.length) return;

  const [low, high] = [Math.min(...values), Math.max(...values)];
  const log = metric === "loss" && low > 0 && high / low > LOG_RATIO;
  if (log) heading.textContent += " (logarithmic)";
  const width = chart.clientWidth - 24;
  const last = Math.max(run.history.length, 2);
  const x = (epoch) => MARGIN.left + ((epoch - 1) / (last - 1)) * (width - MARGIN.left - MARGIN.right);
  const ticks = log ? logTicks(low, high) : linearTicks(low, Math.min(most, high));
  const bend = log ? Math.log : (value) => value;
  const [bottom, top] = [bend(Math.min(low, ticks[0])), bend(Math.max(high, ticks.at(-1)))];
  const y = (value) => MARGIN.top
    + (1 - (bend(value) - bottom) / (top - bottom || 1)) * (HEIGHT - MARGIN.top - MARGIN.bottom);

  const picture = svg("svg", { role: "img", "aria-label": summary(metric, title) });
  for (const tick of ticks) {
    picture.append(
      svg("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(tick), y2: y(tick) }),
      svg("text", { x: MARGIN.left - 6, y: y(tick) + 4, "text-anchor": "end" }, shorten(tick)),
    );
  }
  const axis = { y: HEIGHT - 4, "text-anchor": "middle" };
  picture.append(svg("text", { ...axis, x: MARGIN.left, "text-anchor": "start" }, "epoch 1"));
  for (const epoch of linearTicks(1, last, 6)) {
    const fits = Number.isInteger(epoch) && epoch <= last && x(epoch) > MARGIN.left + EPOCH_LABEL;
    if (fits) picture.append(svg("text", { ...axis, x: x(epoch) }, String(epoch)));
  }
  for (const { split, points } of series) {
    const group = svg("g", { class: split });
    group.append(svg("polyline", { points: points.map(({ epoch, value }) => `${x(epoch)},${y(value)}`).join(" ") }));
    if (points.length < 40) group.append(...points.map(({ epoch, value }) => svg("circle", { cx: x(epoch), cy: y(value), r: 2.5 })));
    picture.append(group);
  }
  const best = series.find(({ split }) => split === "val")?.points.find(({ epoch }) => epoch === run.best);
  if (best) picture.append(svg("circle", { class: "best", cx: x(best.epoch), cy: y(best.value), r: 7 }));
  const pointer = svg("line", { class: "pointer", y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom, visibility: "hidden" });
  picture.append(pointer);

  const legend = document.createElement("p");
  legend.className = "legend";
  const tell = (epoch) => {
    legend.replaceChildren(...series.map(({ split, points }) => {
      const entry = document.createElement("span");
      const point = points.find((each) => each.epoch === epoch);
      entry.className = split;
      entry.textContent = SPLITS[split] + (point ? ` ${format(metric, point.value / scale)}` : "");
      return entry;
    }), epoch ? `epoch ${epoch}` : "");
  };
  tell(null);
  picture.addEventListener("pointermove", (event) => {
    const at = event.clientX - picture.getBoundingClientRect().left;
    const share = (at - MARGIN.left) / (width - MARGIN.left - MARGIN.right);
    const epoch = Math.min(run.history.length, Math.max(1, Math.round(1 + share * (last - 1))));
    for (const end of ["x1", "x2"]) pointer.setAttribute(end, x(epoch));
    pointer.setAttribute("visibility", "visible");
    tell(epoch);
  });
  picture.addEventListener("pointerleave", () => {
    pointer.setAttribute("visibility", "hidden");
    tell(null);
  });
  chart.append(picture, legend);
}

// Some metrics are known of the validation only.
function splitsOf(metric) {
  return Object.keys(SPLITS).filter((split) => run.history.some((row) => `${split}_${metric}` in row));
}

function summary(metric, title) {
  const row = run.history.at(-1);
  const now = splitsOf(metric).map((split) => `${SPLITS[split]} ${format(metric, row[`${split}_${metric}`])}`);
  return `${title} over ${run.history.length} epochs; in the last one, ${now.join(", ")}`;
}

// The pictures come by themselves: they are large, and change only with an epoch.
async function showPictures() {
  let answer = null;
  if (run.pictures !== null) {
    try {
      const response = await fetch("pictures");
      if (response.ok) answer = await response.json();
    } catch {
      // Shown when they come next.
    }
  }
  byId("pictures").hidden = !answer;
  if (!answer) return;
  byId("pictured").textContent = `After epoch ${answer.epoch}, as the network sees them: the surest mistakes, then some of every class.`;
  byId("gallery").replaceChildren(...answer.images.map(pictureCard));
}

function pictureCard({ name, true: truth, predicted, probability, picture }) {
  const card = document.createElement("li");
  const image = document.createElement("img");
  image.src = picture;
  image.alt = `${name}: an image of ${truth}`;
  const right = truth === predicted;
  const text = (className, content) => {
    const line = document.createElement("p");
    line.className = className;
    line.textContent = content;
    return line;
  };
  card.append(image, text(right ? "right" : "wrong", `${predicted} ${(100 * probability).toFixed(0)} %`));
  if (!right) card.append(text("wrong", `is ${truth}`));
  card.append(text("note", name));
  return card;
}

function linearTicks(low, high, count = 5) {
  const rough = (high - low || Math.abs(high) || 1) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const first = Math.floor(low / step);
  return Array.from({ length: Math.ceil(high / step) - first + 1 }, (_, i) => (first + i) * step);
}

function logTicks(low, high) {
  const first = Math.floor(Math.log10(low));
  return Array.from({ length: Math.ceil(Math.log10(high)) - first + 1 }, (_, i) => 10 ** (first + i));
}

function shorten(value) {
  return String(Number(value.toPrecision(3)));
}

function tabulate() {
  const names = Object.keys(run.history.at(-1) ?? {});
  const row = (cells, kind) => {
    const element = document.createElement("tr");
    for (const content of cells) {
      const cell = document.createElement(kind);
      if (kind === "th") cell.scope = "col";
      cell.textContent = content;
      element.append(cell);
    }
    return element;
  };
  const head = document.createElement("thead");
  head.append(row(names, "th"));
  const body = document.createElement("tbody");
  for (const each of run.history.toReversed()) {
    const line = row(names.map((name) => (each[name] === null ? "not finite" : Number(each[name].toPrecision(5)))), "td");
    line.classList.toggle("best", each.epoch === run.best);
    body.append(line);
  }
  byId("table").replaceChildren(head, body);
}

let drawn = window.innerWidth;
window.addEventListener("resize", () => {
  if (run && window.innerWidth !== drawn) for (const chart of document.querySelectorAll(".chart")) draw(chart);
  drawn = window.innerWidth;
});

await read();
setInterval(() => { if (!document.hidden) read(); }, 1000 * SECONDS);
