// The page of panel_node: it shows what comes over the web socket, and sends commands with the token.
"use strict";
const at = (id) => document.getElementById(id);
const PICTURES = { c: "camera", g: "goal", i: "imagined", d: "difference", n: "nearest" };
const HISTORY_S = 60, HEARTBEAT_MS = 100;

let token = new URLSearchParams(location.hash.slice(1)).get("token");
if (token) {
  sessionStorage.setItem("token", token); // not into the history, nor into anybody's log
  history.replaceState(null, "", location.pathname);
} else {
  token = sessionStorage.getItem("token") || "";
}
let me = "", socket = null, held = false, said = null, lastEvent = 0;
let playing = !matchMedia("(prefers-reduced-motion: reduce)").matches, moment = 1;
const distances = [], costs = [], events = [];

// ---- commands

const mine = () => ({ Authorization: `Bearer ${token}`, "X-Panel": me });

async function send(command, options = {}) {
  try {
    const answer = await fetch(`api/${command}`, { method: "POST", headers: mine(), ...options });
    const body = await answer.json();
    notice(body.error || "");
    return answer.ok ? body.said : null;
  } catch (error) {
    notice(`the panel does not answer: ${error.message}`);
    return null;
  }
}

// A goal that is to be looked at before the arm moves there disarms it; Arm confirms.
const goal = (command) => (at("preview").checked ? `${command}?preview` : command);
const sendJson = (command, value) => send(command, { body: JSON.stringify(value) });

function notice(text) {
  at("notice").textContent = text;
  at("notice").hidden = !text;
}

const stop = () => send("stop");
at("stop").addEventListener("click", stop);
document.addEventListener("keydown", (event) => {
  // The space bar stops from wherever one is, but where it writes a space.
  if (event.code !== "Space" || event.target.type === "search" || event.repeat) return;
  event.preventDefault();
  stop();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.target.type === "checkbox") event.target.click(); // as the space bar does not
});
document.addEventListener("keyup", (event) => {
  if (event.code === "Space" && event.target.type !== "search") event.preventDefault(); // would press a button
});
for (const button of document.querySelectorAll("[data-command]")) {
  button.addEventListener("click", async () => {
    const { command } = button.dataset;
    await send(command === "capture" ? goal(command) : command);
    if (command === "capture") setTimeout(gallery, 500);
  });
}
at("take").addEventListener("click", () => send("take"));
at("give").addEventListener("click", () => send("give"));
at("speed").addEventListener("input", () => { at("speed-said").textContent = `${at("speed").value} %`; });
at("speed").addEventListener("change", () => sendJson("speed", { share: at("speed").value / 100 }));
at("dry-run").addEventListener("change", () => sendJson("dry_run", { on: at("dry-run").checked }));
at("upload").addEventListener("change", async () => {
  const file = at("upload").files[0];
  if (file) await send(goal("upload"), { body: file });
  at("upload").value = "";
  gallery();
});

// A sequence of goals, chosen in the gallery, each with its time to stay.
function station(name) {
  const item = document.createElement("li"), dwell = document.createElement("input"), remove = document.createElement("button");
  item.dataset.name = name;
  dwell.type = "number"; dwell.min = 0; dwell.max = 3600; dwell.step = 0.5; dwell.value = 2;
  dwell.setAttribute("aria-label", `seconds to stay at ${name}`);
  remove.type = "button"; remove.textContent = "Remove"; remove.setAttribute("aria-label", `remove ${name} from the sequence`);
  remove.addEventListener("click", () => {
    const next = item.nextElementSibling || item.previousElementSibling;
    (next ? next.querySelector("button") : at("collect")).focus(); // the keyboard would be nowhere
    item.remove();
  });
  item.append(`${name}, stay`, dwell, "s ", remove);
  at("stations").append(item);
}
at("follow").addEventListener("click", () => {
  const goals = [...at("stations").children].map((item) => (
    { name: item.dataset.name, dwell: item.querySelector("input").valueAsNumber }));
  sendJson("sequence", { goals, timeout: at("timeout").valueAsNumber });
});
at("clear").addEventListener("click", () => at("stations").replaceChildren());

// A goal from a recording.
const chosenFrame = () => (
  { name: at("recording").value, at: at("second").valueAsNumber, episode: at("episode").valueAsNumber });
at("look").addEventListener("click", async () => {
  const { name, ...when } = chosenFrame();
  const answer = await fetch(`api/recordings/${encodeURIComponent(name)}.jpg?${new URLSearchParams(when)}`, { headers: mine() });
  at("frame").hidden = !answer.ok;
  notice(answer.ok ? "" : (await answer.json()).error);
  if (!answer.ok) return;
  URL.revokeObjectURL(at("frame").src);
  at("frame").src = URL.createObjectURL(await answer.blob());
});
at("recorded").addEventListener("click", async () => { await sendJson(goal("recorded"), chosenFrame()); gallery(); });

// A region of the camera's picture: drawn with the mouse or a finger, or typed.
const REGION = ["top", "left", "height", "width"];
let corner = null, high = 0, wide = 0; // pixels of the camera's picture; while the next one loads, the element says 0
function pixel(event) {
  const box = at("camera").getBoundingClientRect(), within = (value) => Math.min(1, Math.max(0, value));
  return [
    Math.round(within((event.clientY - box.top) / box.height) * high),
    Math.round(within((event.clientX - box.left) / box.width) * wide),
  ];
}
function drawRegion() {
  const [top, left, height, width] = REGION.map((name) => at(name).valueAsNumber);
  const { style } = at("region");
  at("view").classList.toggle("cropping", at("cropping").open);
  at("region").hidden = !at("cropping").open || !high;
  style.top = `${100 * top / high}%`; style.height = `${100 * height / high}%`;
  style.left = `${100 * left / wide}%`; style.width = `${100 * width / wide}%`;
}
at("view").addEventListener("pointerdown", (event) => {
  if (!at("cropping").open || !high) return;
  event.preventDefault();
  at("view").setPointerCapture(event.pointerId);
  corner = pixel(event);
});
at("view").addEventListener("pointermove", (event) => {
  if (!corner) return;
  const [y, x] = pixel(event), [top, left] = corner;
  at("top").value = Math.min(y, top); at("height").value = Math.abs(y - top);
  at("left").value = Math.min(x, left); at("width").value = Math.abs(x - left);
  drawRegion();
});
for (const kind of ["pointerup", "pointercancel"]) at("view").addEventListener(kind, () => { corner = null; });
for (const name of REGION) at(name).addEventListener("input", drawRegion);
at("cropping").addEventListener("toggle", drawRegion);
at("camera").addEventListener("load", () => {
  const { naturalHeight, naturalWidth } = at("camera");
  if (!naturalHeight || (high === naturalHeight && wide === naturalWidth)) return;
  high = naturalHeight; wide = naturalWidth;
  drawRegion();
});
async function region(write) {
  const values = Object.fromEntries(REGION.map((name) => [name, at(name).valueAsNumber]));
  at("crop-said").textContent = await sendJson("region", { ...values, write }) || "";
}
at("crop").addEventListener("click", () => region(false));
at("write").addEventListener("click", () => region(true));

// Recording, and how attempts went.
at("record").addEventListener("click", async () => {
  await sendJson("record", { on: !(said && said.recording) });
  recordings();
});
for (const button of document.querySelectorAll("[data-mark]")) {
  button.addEventListener("click", () => sendJson("mark", { mark: button.dataset.mark }));
}

// The dead-man's button: held by finger, mouse or the Enter key, let go by everything else.
const deadman = at("deadman");
function hold(on) {
  held = on;
  deadman.classList.toggle("held", on);
  deadman.setAttribute("aria-pressed", on);
  if (socket && socket.readyState === WebSocket.OPEN) socket.send(on ? "held" : "free");
}
deadman.addEventListener("pointerdown", (event) => { deadman.setPointerCapture(event.pointerId); hold(true); });
for (const kind of ["pointerup", "pointercancel", "lostpointercapture", "blur"]) {
  deadman.addEventListener(kind, () => hold(false));
}
deadman.addEventListener("contextmenu", (event) => event.preventDefault()); // a long press would open it, and let go
deadman.addEventListener("keydown", (event) => { if (event.key === "Enter" && !event.repeat) hold(true); });
deadman.addEventListener("keyup", (event) => { if (event.key === "Enter") hold(false); });
document.addEventListener("visibilitychange", () => { if (document.hidden) hold(false); });
setInterval(() => { if (held) hold(true); }, HEARTBEAT_MS);

// ---- what is shown

function connect() {
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`);
  socket.binaryType = "arraybuffer";
  socket.addEventListener("message", (event) => {
    if (typeof event.data !== "string") return picture(event.data);
    const data = JSON.parse(event.data);
    if (data.you) { me = data.you; lastEvent = 0; events.length = 0; earlierEvents(); } else show(data);
  });
  socket.addEventListener("close", () => {
    me = "";
    hold(false);
    heading("not connected", "the panel's process is gone, or out of reach; what is below is old", "lost");
    at("controls").disabled = at("doctor").disabled = true;
    setTimeout(connect, 1000);
  });
}

function picture(data) {
  const image = at(PICTURES[String.fromCharCode(new Uint8Array(data)[0])]);
  if (image.src.startsWith("blob:")) URL.revokeObjectURL(image.src);
  if (data.byteLength > 1) image.src = URL.createObjectURL(new Blob([data.slice(1)], { type: "image/jpeg" }));
  else image.removeAttribute("src");
}

function heading(state, reason, kind) {
  if (at("state").textContent !== state) at("state").textContent = state;
  if (at("reason").textContent !== reason) at("reason").textContent = reason;
  document.querySelector("header").className = kind;
}

const number = (value, digits = 1) => (value === null || value === undefined ? "–" : value.toFixed(digits));

function gauge(id, value, limit) {
  at(id).max = 2 * limit; at(id).high = limit; at(id).low = limit - 1e-3;
  at(id).value = value === null ? 0 : Math.min(value, 2 * limit);
  at(`${id}-said`).textContent = value === null ? "not known" : `${number(value, 2)}, the limit is ${number(limit)}`;
}

function remember(points, now, value) {
  if (value !== null) points.push([now, value]);
  while (points.length && points[0][0] < now - HISTORY_S) points.shift();
}

function show(state) {
  said = state;
  heading(state.reached && state.state === "armed" ? "goal reached" : state.state, state.reason, state.state.split(" ")[0]);
  at("goal-said").textContent = `(${state.goal || "none yet"})`;
  at("nearest-part").hidden = !state.nearest;
  at("nearest-said").textContent = state.nearest;
  at("blocks").textContent = `, a picture every ${number(state.block_s, 2)} s`;
  gauge("surprise", state.surprise, state.surprise_limit);
  gauge("novelty", state.novelty, state.surprise_limit);
  const now = Date.now() / 1000;
  remember(distances, now, state.distance);
  remember(costs, now, state.cost);
  at("distance-said").textContent = `${number(state.distance)} ${state.unit}`;
  at("cost-said").textContent = number(state.cost, 2);
  curve("distance", distances, now, state.distance_limit);
  curve("cost", costs, now, null);
  joints(state.joints);
  const slow = Object.entries(state.interventions).map(([why, times]) => `${why} ${times}`).join(", ");
  const slowest = state.latency.plan_p95, deadline = state.deadline;
  rows("latency", [
    ["a plan", `${number(state.latency.plan_p50)} ms, 95 % within ${number(slowest)} ms, the deadline is ${number(deadline, 0)} ms`,
      deadline !== null && slowest > deadline ? "warn" : ""],
    ["camera frame to command", `${number(state.latency.frame_to_command_p50)} ms, 95 % within ${number(state.latency.frame_to_command_p95)} ms`],
    ["plans, late ones", `${number(state.plans, 0)}, ${number(state.late, 0)}`],
    ["at the joints' limits", state.saturation === null ? "–" : `${number(100 * state.saturation, 0)} % of the plan`],
    ["the shield held back", slow || "nothing"],
  ]);
  const commands = state.commander === me;
  at("who").textContent = commands ? "(you command)" : state.commander ? "(somebody else commands)" : "(nobody commands)";
  const there = [at("take"), at("give")].includes(document.activeElement);
  at("take").hidden = commands; at("give").hidden = !commands;
  at("take").disabled = state.commander !== null || !token;
  at("take").title = token ? "" : "open the address with the token that panel_node printed";
  if (there) at(commands ? "give" : "take").focus(); // the other one is hidden, and the keyboard would be nowhere
  at("controls").disabled = at("doctor").disabled = !commands;
  at("deadman").hidden = !state.deadman;
  if (document.activeElement !== at("speed") && state.speed !== null) {
    at("speed").value = Math.round(100 * state.speed);
    at("speed-said").textContent = `${Math.round(100 * state.speed)} %`;
  }
  document.querySelector("[data-command=hold]").textContent = state.speed === 0 ? "Go on" : "Hold";
  at("dry-run").checked = state.dry_run;
  at("sequence-said").textContent = state.sequence ? `(${state.sequence})` : "";
  const recording = state.recording;
  at("record").textContent = recording ? "End the recording" : "Record";
  at("recording-said").textContent = [
    recording ? `${recording.file}, ${number(recording.seconds, 0)} s, ${number(recording.bytes / 1e6)} MB` : "off",
    ...(state.episode ? [`${state.episode} is running`] : []),
  ].join("; ");
  for (const button of document.querySelectorAll("[data-mark]")) {
    button.disabled = !state.marks_heard || (!state.episode && button.dataset.mark !== "start");
  }
  rows("nodes", Object.entries(state.nodes).map(([name, node]) => [name, node.message, node.level]));
  for (const event of state.events) if (event.number > lastEvent) { lastEvent = event.number; events.unshift(event); }
  if (lastEvent !== Number(at("events").dataset.shown)) listEvents();
}

function rows(id, values) {
  const body = at(id), texts = JSON.stringify(values);
  if (body.dataset.texts === texts) return;
  body.dataset.texts = texts;
  body.replaceChildren(...values.map(([name, text, level]) => {
    const row = document.createElement("tr"), head = document.createElement("th"), cell = document.createElement("td");
    head.scope = "row"; head.textContent = name; cell.textContent = text; cell.className = level || "";
    row.append(head, cell);
    return row;
  }));
}

// What happened before the page was opened.
async function earlierEvents() {
  const all = (await (await fetch("api/events")).json()).events, known = new Set(events.map((event) => event.number));
  const earlier = all.filter((event) => !known.has(event.number)).reverse();
  events.push(...earlier);
  lastEvent = Math.max(0, ...events.map((event) => event.number));
  listEvents();
}

function listEvents() {
  const wanted = at("search").value.toLowerCase();
  at("events").dataset.shown = lastEvent;
  const found = events.filter((event) => `${event.who} ${event.text}`.toLowerCase().includes(wanted)).slice(0, 200);
  at("events").replaceChildren(...found.map((event) => {
    const item = document.createElement("li");
    item.className = event.level;
    item.textContent = `${new Date(1000 * event.at).toLocaleTimeString()} ${event.who}: ${event.text}`;
    return item;
  }));
}
at("search").addEventListener("input", listEvents);

function curve(id, points, now, limit) {
  const canvas = at(id), pen = canvas.getContext("2d"), style = getComputedStyle(document.body);
  const most = 1.1 * Math.max(limit || 0, 1e-6, ...points.map((point) => point[1]));
  const least = Math.min(0, ...points.map((point) => point[1]));
  const place = ([when, value]) =>
    [canvas.width * (1 - (now - when) / HISTORY_S), canvas.height * (1 - (value - least) / (most - least))];
  pen.clearRect(0, 0, canvas.width, canvas.height);
  if (limit) {
    pen.strokeStyle = style.getPropertyValue("--good"); pen.setLineDash([6, 5]); pen.beginPath();
    const y = place([now, limit])[1]; pen.moveTo(0, y); pen.lineTo(canvas.width, y); pen.stroke(); pen.setLineDash([]);
  }
  pen.strokeStyle = style.getPropertyValue("--accent"); pen.lineWidth = 2; pen.beginPath();
  points.forEach((point, i) => (i ? pen.lineTo(...place(point)) : pen.moveTo(...place(point))));
  pen.stroke();
}

// Where each joint stands between its limits, and how near the plan comes to its greatest speed.
function joints(all) {
  const body = at("joints");
  if (body.children.length !== all.length) {
    body.replaceChildren(...all.map(({ name }) => {
      const row = document.createElement("tr"), head = document.createElement("th");
      head.scope = "row"; head.textContent = name;
      const cells = [`position of ${name}`, `speed of ${name}`].map((label) => {
        const cell = document.createElement("td"), meter = document.createElement("meter");
        meter.setAttribute("aria-label", label);
        cell.append(meter, document.createElement("span"));
        return cell;
      });
      row.append(head, ...cells);
      return row;
    }));
  }
  all.forEach((joint, i) => {
    const [place, speed] = body.children[i].querySelectorAll("meter");
    const [where, fast] = body.children[i].querySelectorAll("span");
    body.children[i].querySelector("th").textContent = joint.name;
    place.hidden = joint.lower === null || joint.position === null; speed.hidden = joint.speed === null;
    if (!place.hidden) {
      const margin = 0.05 * (joint.upper - joint.lower);
      place.min = joint.lower; place.max = joint.upper; place.value = joint.position;
      place.low = joint.lower + margin; place.high = joint.upper - margin; place.optimum = (joint.lower + joint.upper) / 2;
    }
    const ends = joint.lower === null ? "limits not known" : `${number(joint.lower, 2)} to ${number(joint.upper, 2)}`;
    where.textContent = `${number(joint.position, 2)} (${ends})`;
    speed.low = 0.98; speed.high = 0.99; speed.optimum = 0; speed.value = joint.speed || 0;
    fast.textContent = joint.speed === null ? "–" : `${number(100 * joint.speed, 0)} % of its limit`;
  });
}

// The imagined future as a film: the pictures of the strip one after the other, each as long as its action block.
function drawFilm() {
  const strip = at("imagined"), canvas = at("film"), pen = canvas.getContext("2d"), blocks = said ? said.blocks : 0;
  at("moment").max = Math.max(1, blocks);
  const shown = Math.min(moment, blocks);
  pen.clearRect(0, 0, canvas.width, canvas.height);
  at("moment-said").textContent = blocks ? `in ${number(shown * said.block_s, 2)} s` : "nothing yet";
  if (!blocks || !strip.getAttribute("src") || !strip.complete) return;
  const width = strip.naturalWidth / blocks, height = strip.naturalHeight;
  if (canvas.width !== Math.round(width)) { canvas.width = Math.round(width); canvas.height = height; }
  pen.drawImage(strip, (shown - 1) * width, 0, width, height, 0, 0, canvas.width, canvas.height);
  if (playing) at("moment").value = shown;
}
function film() {
  // At its end it stands still for two blocks, then begins again.
  if (playing && said) moment = moment < said.blocks + 2 ? moment + 1 : 1;
  drawFilm();
  setTimeout(film, said ? 1000 * said.block_s : 500);
}
function play(on) {
  playing = on;
  at("play").textContent = on ? "Pause" : "Play";
}
at("imagined").addEventListener("load", drawFilm);
at("play").addEventListener("click", () => play(!playing));
at("moment").addEventListener("input", () => { play(false); moment = Number(at("moment").value); drawFilm(); });

async function gallery() {
  const { goals } = await (await fetch("api/goals")).json();
  at("gallery").replaceChildren(...goals.map((name) => {
    const button = document.createElement("button"), image = document.createElement("img");
    image.src = `api/goals/${encodeURIComponent(name)}.jpg`; image.alt = "";
    button.append(image, name); button.type = "button";
    button.addEventListener("click", () => (at("collect").checked ? station(name) : sendJson(goal("goal"), { name })));
    return button;
  }));
}

async function recordings() {
  const found = await (await fetch("api/recordings")).json();
  at("recording").replaceChildren(...found.recordings.map((name) => new Option(name)));
}

async function model() {
  const found = await (await fetch("api/bundle")).json();
  at("model").textContent = `${found.name}: ${found.preflight}${found.reason ? `, ${found.reason}` : ""}`;
  rows("checks", found.checks.map((check) => [check.name, check.found, check.good ? "ok" : "error"]));
}

async function doctor() {
  const { findings } = await (await fetch("api/doctor")).json();
  rows("findings", findings.map(({ check, state, found, advice }) => [check, advice ? `${found}: ${advice}` : found, state]));
}
at("doctor").addEventListener("click", async () => {
  at("doctor-said").textContent = "is being examined";
  at("doctor-said").textContent = await send("doctor") || "not examined";
  doctor();
});

connect(); play(playing); film(); gallery(); recordings(); model(); doctor();
