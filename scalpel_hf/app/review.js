"use strict";
const $ = (id) => document.getElementById(id);
const canvas = $("canvas"), pen = canvas.getContext("2d"), view = new View(canvas);
const token = location.hash.slice(1);
const SAY = { accept: "accepted", reject: "rejected: no target", mend: "mended" };
const AHEAD = 4, MOST_KEPT = 24;

let queue = [];      // frames, least certain first
let at = 0;          // place in the queue
let shown = null;    // the frame on the screen: what the server says, its pictures and its mask
let strokes = [];    // masks before each stroke
let history = [];    // decisions of this session, each a list of places
let warned = false; // that there are unsaved strokes
let size = 3, hidden = false, soft = false, cursor = null, object = -1, drag = null;
const kept = new Map();

// Server

async function ask(path, posted) {
  const options = { headers: { "X-Token": token }, cache: "no-store" };
  if (posted !== undefined) Object.assign(options, { method: "POST", body: JSON.stringify(posted) });
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("the program is not running: nothing is saved until you start it again and open its address");
  }
  if (!answer.ok) throw Object.assign(new Error(await answer.text()), { status: answer.status });
  return answer;
}

const picture = async (index, what) => (await ask(`/api/picture?index=${index}&what=${what}`)).blob();

function load(place) {
  const { index } = queue[place];
  if (!kept.has(index)) {
    const loading = Promise.all([
      ask(`/api/frame?index=${index}`).then((answer) => answer.json()),
      picture(index, "frame").then(createImageBitmap),
    ]).then(([facts, image]) => ({ ...facts, image }));
    loading.catch(() => kept.delete(index));
    kept.set(index, loading);
    if (kept.size > MOST_KEPT) kept.delete(kept.keys().next().value);
  }
  return kept.get(index);
}

// Decide about frames, by their places in the queue.
async function decide(places, decision, runs) {
  const wishes = places.map((place) => ({ index: queue[place].index, known: queue[place].at, decision, runs }));
  let done;
  try {
    done = await (await ask("/api/decide", wishes)).json();
  } catch (error) {
    if (error.status === 409) await lookAgain(places[0]);
    throw error;
  }
  done.forEach((said, i) => {
    Object.assign(queue[places[i]], said);
    kept.delete(said.index);
  });
}

// Another tab has decided: what it decided is shown, but strokes that nobody has saved stay.
async function lookAgain(place) {
  queue = (await (await ask("/api/queue")).json()).frames;
  kept.clear();
  if (!strokes.length) await reopen(place);
}

const reopen = (place) => grid ? openGrid(Math.floor(grid.start / PAGE) * PAGE) : show(place);

// Showing

async function show(place) {
  at = Math.min(Math.max(place, 0), queue.length - 1);
  if (!queue.length) return say("there is nothing to review: people labelled every frame", "problem");
  const mine = at;
  shown = drag = null; // a drag and strokes end with their frame
  strokes = [];
  let facts;
  try {
    facts = await load(mine);
  } catch (error) {
    facts = { problem: error.message };
  }
  if (mine !== at) return; // someone went on meanwhile
  if (facts.problem) return draw(), tell(), say(facts.problem, "problem");
  Object.assign(queue[mine], { decision: facts.decision, at: facts.at }); // maybe of another tab
  shown = { ...facts, soft: null };
  shown.mask = new Mask(facts.width, facts.height, facts.person ?? facts.teacher);
  shown.doubt = new Mask(facts.width, facts.height, facts.person ? [] : facts.ignored);
  warned = false;
  object = -1;
  cursor = null;
  view.fit(facts.width, facts.height);
  for (let i = 1; i <= AHEAD && mine + i < queue.length; i++) load(mine + i).catch(() => {});
  try {
    if (soft) await fetchSoft();
  } finally {
    draw();
    tell();
  }
}

function say(text, kind = "") {
  $("state").textContent = text;
  $("state").className = kind;
}

function tell() {
  const frame = queue[at], open = queue.filter((f) => !f.decision).length;
  $("name").textContent = frame.name;
  $("progress").textContent = `${at + 1} of ${queue.length}, ${open} undecided`;
  $("size").textContent = size;
  if (!shown) return $("facts").textContent = "";
  say(strokes.length ? "changed, not saved" : SAY[frame.decision] ?? "undecided", strokes.length ? "" : frame.decision);
  const scores = shown.objects.score.map((s) => s.toFixed(2)).join(", ");
  $("facts").textContent = `certainty ${frame.certainty.toFixed(2)}\n`
    + (scores ? `objects with score ${scores}` : frame.empty ? "the teacher says: no target" : "no object was accepted")
    + `\n${shown.width} × ${shown.height} pixels`;
}

function draw() {
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.clearRect(0, 0, canvas.width, canvas.height);
  if (!shown) return;
  pen.setTransform(view.scale, 0, 0, view.scale, view.x, view.y);
  pen.imageSmoothingEnabled = false;
  pen.drawImage(soft && shown.soft ? shown.soft : shown.image, 0, 0);
  if (!hidden) {
    outline(shown.doubt, "#fad228");
    outline(shown.mask, "#ff463c");
    pen.strokeStyle = "#ff463c80";
    pen.lineWidth = 1 / view.scale;
    for (const [x, y, w, h] of shown.objects.bbox) pen.strokeRect(x - 6, y - 6, w + 12, h + 12); // to find a lone pixel
  }
  if (cursor) {
    pen.strokeStyle = "#50e3ff";
    pen.lineWidth = 2 / view.scale;
    const from = Math.floor((size - 1) / 2);
    pen.strokeRect(cursor.x - from, cursor.y - from, size, size);
  }
}

function outline(mask, color) {
  pen.strokeStyle = color;
  pen.lineWidth = 2 / view.scale;
  pen.beginPath();
  for (const [x0, y0, x1, y1] of mask.edges()) pen.moveTo(x0, y0), pen.lineTo(x1, y1);
  pen.stroke();
}

async function fetchSoft() {
  try {
    shown.soft ??= await createImageBitmap(await picture(queue[at].index, "confidence"));
  } catch (error) {
    soft = false; // the frame itself is shown
    throw error;
  }
}

// Deciding

async function settle(decision) {
  if (!shown) return;
  const runs = shown.mask.runs(); // the mask that is seen is what is meant
  if (decision === "accept" && String(runs) !== String(shown.teacher)) await decide([at], "mend", runs);
  else await decide([at], decision);
  history.push([at]);
  await show(following(at));
}

// A mask that was changed and not saved is left behind only when asked twice.
function askTwice() {
  if (!strokes.length || warned) return;
  warned = true;
  throw new Error("changed, not saved: A keeps it, once more drops it");
}

async function leave(place) {
  askTwice();
  await show(place);
}

// The next place without a decision; the last place where there is none.
function following(place) {
  const next = queue.findIndex((frame, i) => i > place && !frame.decision);
  return next >= 0 ? next : Math.min(place + 1, queue.length - 1);
}

async function undo() {
  const places = history.at(-1) ?? (!grid && queue[at]?.decision ? [at] : null);
  if (!places) return;
  askTwice();
  await decide(places, "undo");
  history.pop();
  await reopen(places[0]);
}

// Brush

function stroke(change) {
  strokes.push(shown.mask.pixels.slice());
  if (strokes.length > MOST_KEPT) strokes.splice(1, 1); // the first is how it was
  warned = false;
  change();
  draw();
  tell();
}

function clear() {
  const bare = !shown.mask.pixels.includes(1);
  stroke(() => shown.mask = new Mask(shown.width, shown.height, bare ? shown.teacher : []));
}

function moveCursor(dx, dy, shift) {
  const far = shift ? 8 : 1;
  cursor.x = Math.min(Math.max(cursor.x + dx * far, 0), shown.width - 1);
  cursor.y = Math.min(Math.max(cursor.y + dy * far, 0), shown.height - 1);
  const margin = 3 * view.scale, x = view.x + cursor.x * view.scale, y = view.y + cursor.y * view.scale;
  if (x < margin || y < margin || x > canvas.width - margin || y > canvas.height - margin)
    view.closeUp([cursor.x, cursor.y, 1, 1]);
}

canvas.addEventListener("pointerdown", (event) => {
  if (!shown || waiting || !event.isPrimary || event.button > 2) return; // a second finger; buttons of the side
  canvas.setPointerCapture(event.pointerId);
  if (event.button === 1) return drag = { pan: true, x: event.clientX, y: event.clientY };
  const value = event.button === 2 || event.ctrlKey ? 0 : 1, start = view.pixel(event);
  drag = { value, last: start };
  stroke(() => shown.mask.stamp(start.x, start.y, size, value));
});
canvas.addEventListener("pointermove", (event) => {
  if (!drag || !event.isPrimary || !event.buttons) return;
  if (drag.pan) {
    const ratio = canvas.width / canvas.getBoundingClientRect().width;
    view.x += (event.clientX - drag.x) * ratio;
    view.y += (event.clientY - drag.y) * ratio;
    [drag.x, drag.y] = [event.clientX, event.clientY];
  } else {
    const here = view.pixel(event);
    shown.mask.line(drag.last, here, size, drag.value);
    drag.last = here;
  }
  draw();
});
canvas.addEventListener("lostpointercapture", (event) => { // follows pointerup and pointercancel too
  if (event.isPrimary) drag = null;
});
canvas.addEventListener("contextmenu", (event) => event.preventDefault());
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  const box = canvas.getBoundingClientRect(), ratio = canvas.width / box.width;
  view.zoom(event.deltaY < 0 ? 1.25 : 0.8, (event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio);
  draw();
}, { passive: false });

// Keys

// The object after the one in close up, or before it. There is none past the ends: Tab leaves the frame.
const neighbour = (shift) => shown?.objects.bbox[object + (shift ? -1 : 1)];

const FRAME_KEYS = {
  a: () => settle("accept"), Enter: () => settle("accept"), r: () => settle("reject"),
  n: () => leave(following(at)), ArrowRight: () => leave(at + 1),
  p: () => leave(at - 1), ArrowLeft: () => leave(at - 1),
  u: undo, g: async () => { await leave(at); await openGrid(); },
  z: () => { if (strokes.length) shown.mask.pixels = strokes.pop(); },
  c: clear,
  "[": () => size = Math.max(size - 1, 1), "]": () => size = Math.min(size + 1, 64),
  "+": () => view.zoom(1.25), "=": () => view.zoom(1.25), "-": () => view.zoom(0.8),
  0: () => view.fit(shown.width, shown.height),
  h: () => hidden = !hidden,
  t: async () => { soft = !soft; if (soft) await fetchSoft(); },
  Tab: (shift) => {
    if (!neighbour(shift)) return;
    object += shift ? -1 : 1;
    view.closeUp(shown.objects.bbox[object]);
  },
  m: () => {
    const [x, y, w, h] = shown.objects.bbox[Math.max(object, 0)] ?? [shown.width / 2, shown.height / 2, 0, 0];
    cursor = { x: Math.floor(x + w / 2), y: Math.floor(y + h / 2) };
    view.closeUp([cursor.x, cursor.y, 8, 8]);
  },
};

const MEND_KEYS = {
  ...FRAME_KEYS,
  ArrowLeft: (shift) => moveCursor(-1, 0, shift), ArrowRight: (shift) => moveCursor(1, 0, shift),
  ArrowUp: (shift) => moveCursor(0, -1, shift), ArrowDown: (shift) => moveCursor(0, 1, shift),
  " ": () => stroke(() => shown.mask.stamp(cursor.x, cursor.y, size, 1)),
  x: () => stroke(() => shown.mask.stamp(cursor.x, cursor.y, size, 0)),
  Backspace: () => stroke(() => shown.mask.stamp(cursor.x, cursor.y, size, 0)),
  Escape: () => (cursor = null, view.fit(shown.width, shown.height)),
};

const DECIDING = ["a", "Enter", "r", "u"];
const MOVING = [" ", "Tab", "ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "PageDown", "PageUp", "Backspace"];
let busy = Promise.resolve(), waiting = 0; // keys are dealt with one after the other, however fast they come
function enqueue(action) {
  waiting++;
  busy = busy.then(action).catch((error) => say(error.message, "problem")).finally(() => waiting--);
}

// The key by what it writes; where that is no Latin letter, by where it is.
function keyOf({ key, code }) {
  if (key.length > 1) return key;
  return key <= "~" ? key.toLowerCase() : { BracketLeft: "[", BracketRight: "]" }[code] ?? code.slice(3).toLowerCase();
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const key = keyOf(event), shift = event.shiftKey;
  if (key === "Tab" && (grid || !neighbour(shift))) return void (object = -1); // the browser moves the focus
  if (event.repeat && DECIDING.includes(key)) return; // held down, it would decide about frames that nobody saw
  if (MOVING.includes(key)) event.preventDefault();
  enqueue(async () => {
    const action = (grid ? GRID_KEYS : cursor ? MEND_KEYS : FRAME_KEYS)[key];
    if (!action || (!grid && !shown && !["n", "p", "ArrowLeft", "ArrowRight", "g", "u"].includes(key))) return;
    drag = null; // a key ends it, so that what is saved or undone is what was seen
    await action(shift);
    if (!grid && shown) draw(), tell();
  });
});

function resize() {
  const box = canvas.getBoundingClientRect(), ratio = devicePixelRatio || 1;
  canvas.width = Math.round(box.width * ratio);
  canvas.height = Math.round(box.height * ratio);
  if (shown) view.fit(shown.width, shown.height);
  draw();
}
addEventListener("resize", resize);
addEventListener("beforeunload", (event) => { if (strokes.length) event.preventDefault(); });

enqueue(async () => {
  const { run, reviewer, frames } = await (await ask("/api/queue")).json();
  queue = frames;
  document.title = `Review of ${run}, ${reviewer}`;
  resize();
  await show(Math.max(queue.findIndex((frame) => !frame.decision), 0));
});
