// Sends each image in a request of its own, a few at a time (the server batches them), and shows the classes.

const AT_ONCE = 4;
const TRIES_WHEN_BUSY = 10;

const byId = (id) => document.getElementById(id);
const results = byId("results");
const status = byId("status");

// Never "100 %" or "0 %" for what is only nearly so.
function percent(value) {
  if (value < 1 && value >= 0.9995) return "> 99.9 %";
  if (value > 0 && value < 0.0005) return "< 0.1 %";
  return `${(100 * value).toFixed(1)} %`;
}

let limits = {};
const queue = [];
let working = 0;
const session = { total: 0, done: 0, failed: 0 };

async function describe() {
  const model = await (await fetch("model")).json();
  limits = model.limits;
  document.title = `${model.run}: classify images`;
  byId("run").textContent = model.run;
  const shown = model.classes.slice(0, 6).join(", ");
  const more = model.classes.length > 6 ? `, and ${model.classes.length - 6} more` : "";
  byId("about").textContent = `${model.model} tells apart ${shown}${more}`;
  byId("example").textContent = `curl -F image=@photo.jpg ${new URL("predict", location)}`;
  byId("limits").textContent =
    `JPEG, PNG, WebP and others, up to ${limits.max_megabytes} MB and ${limits.max_megapixels} megapixels`;
}

function add(files) {
  for (const file of files) {
    const card = byId("card").content.firstElementChild.cloneNode(true);
    const image = card.querySelector(".image");
    image.alt = "";  // its name stands beside it
    image.src = URL.createObjectURL(file);
    image.onerror = () => image.remove();  // a kind that the browser does not show, such as TIFF
    card.querySelector("h2").textContent = file.name;
    results.prepend(card);
    queue.push({ file, card });
    session.total += 1;
  }
  byId("clear").hidden = false;
  tell();
  while (working < AT_ONCE && queue.length) work();
}

async function work() {
  working += 1;
  while (queue.length) {
    const { file, card } = queue.shift();
    try {
      show(card, await classify(file));
      session.done += 1;
    } catch (error) {
      fail(card, error.message.replace(`${file.name}: `, ""));  // it stands above
      session.failed += 1;
    }
    tell(file, card);
  }
  working -= 1;
}

async function classify(file) {
  if (file.size > 1e6 * limits.max_megabytes) {
    throw new Error(`larger than ${limits.max_megabytes} MB`);
  }
  const form = new FormData();
  form.append("image", file, file.name);
  for (let tries = 1; ; tries += 1) {
    let response;
    try {
      response = await fetch("predict?heat_maps=true", { method: "POST", body: form });
    } catch {
      throw new Error("the server does not answer");
    }
    if (response.status === 503 && tries < TRIES_WHEN_BUSY) {
      const seconds = Number(response.headers.get("Retry-After") ?? 1);
      await new Promise((resume) => setTimeout(resume, 1000 * seconds * (0.5 + Math.random())));
      continue;
    }
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.error);
    return answer.predictions[0];
  }
}

function show(card, prediction) {
  card.querySelector(".state").remove();
  const rows = prediction.classes.map((each) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(text("name", each.name), text("value", percent(each.probability)), bar(each.probability));
    button.addEventListener("click", () => explain(card, button, each));
    const row = document.createElement("li");
    row.append(button);
    return row;
  });
  card.querySelector(".classes").append(...rows);
  explain(card, rows[0].firstElementChild, prediction.classes[0]);
  byId("hint").hidden = false;
}

// Where the evidence for one of the classes lies.
function explain(card, button, { name, heat_map: picture }) {
  for (const each of card.querySelectorAll(".classes button")) each.ariaPressed = String(each === button);
  const figure = card.querySelector("figure");
  figure.querySelector("img").src = picture;
  figure.querySelector("img").alt = `Heat map of ${name}`;
  figure.querySelector("figcaption").textContent = name;
  figure.hidden = false;
}

function fail(card, message) {
  const state = card.querySelector(".state");
  state.textContent = message;
  state.classList.add("bad");
}

function text(kind, content) {
  const element = document.createElement("span");
  element.className = kind;
  element.textContent = content;
  return element;
}

function bar(share) {
  const track = document.createElement("span");
  const filled = document.createElement("span");
  track.className = "track";
  track.setAttribute("aria-hidden", "true");
  filled.style.width = `${100 * share}%`;
  track.append(filled);
  return track;
}

// One sentence for those who do not see the cards, and for all how far it is.
function tell(file, card) {
  const { total, done, failed } = session;
  if (done + failed < total) {
    status.textContent = `${done + failed} of ${total} images done`;
  } else if (total === 1 && card) {
    const [name, value] = card.querySelectorAll(".classes .name, .classes .value");
    const said = name ? `${name.textContent}, ${value.textContent}` : "could not be classified";
    status.textContent = `${file.name}: ${said}`;
  } else if (total) {
    status.textContent = failed ? `${done} of ${total} images classified` : `${done} images classified`;
  } else {
    status.textContent = "";
  }
}

function clear() {
  queue.length = 0;
  for (const image of results.querySelectorAll(".image")) URL.revokeObjectURL(image.src);
  results.replaceChildren();
  Object.assign(session, { total: 0, done: 0, failed: 0 });
  byId("clear").hidden = byId("hint").hidden = true;
  tell();
  byId("files").focus();
}

// On phones the file field opens the camera itself; elsewhere a small window shows the webcam.
async function takePhoto() {
  const camera = navigator.mediaDevices;
  if (!camera || matchMedia("(pointer: coarse)").matches) {
    byId("capture").click();
    return;
  }
  const dialog = byId("camera");
  const video = dialog.querySelector("video");
  try {
    video.srcObject = await camera.getUserMedia({ video: true });
  } catch (error) {
    status.textContent = `No photo: ${error.message}`;
    return;
  }
  dialog.showModal();
}

function shoot() {
  const video = byId("camera").querySelector("video");
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => {
    const time = new Date().toTimeString().slice(0, 8).replaceAll(":", "-");
    add([new File([blob], `photo ${time}.jpg`, { type: blob.type })]);
  }, "image/jpeg", 0.95);
  byId("camera").close();
}

for (const id of ["files", "capture"]) {
  byId(id).addEventListener("change", (event) => {
    add([...event.target.files]);
    event.target.value = "";  // the same file may be chosen again
  });
}
byId("photo").addEventListener("click", takePhoto);
byId("shutter").addEventListener("click", shoot);
byId("close").addEventListener("click", () => byId("camera").close());
byId("camera").addEventListener("close", () => {
  for (const track of byId("camera").querySelector("video").srcObject?.getTracks() ?? []) track.stop();
});
byId("clear").addEventListener("click", clear);
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) add([...event.clipboardData.files]);
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  byId("drop").classList.add("over");
});
document.addEventListener("dragleave", () => byId("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  byId("drop").classList.remove("over");
  add([...event.dataTransfer.files]);
});

describe().catch(() => { status.textContent = "The server does not answer."; });
