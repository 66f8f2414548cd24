"use strict";
const $ = (id) => document.getElementById(id);
const canvas = $("canvas"), pen = canvas.getContext("2d"), view = new View(canvas);
const token = location.hash.slice(1);
const SAY = { accept: "accepted", reject: "rejected: no target", mend: "mended" };
const PAGE = 24, AHEAD = 4, MOST_KEPT = 24;

let queue = [];      // frames, least certain first
let at = 0;          // place in the queue
let shown = null;    // the frame on the screen: what the server says, its pictures and its mask
let strokes = [];    // masks before each stroke
let history = [];    // decisions of this session, each a list of places
let warned = false; // that there are unsaved strokes
let size = 3, hidden = false, soft = false, cursor = null, object = -1, drag = null, grid = null;
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
  if (!answer.ok) throw new Error(await answer.text());
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

async function decide(decisions) {
  const done = await (await ask("/api/decide", decisions)).json();
  const places = new Map(queue.map((frame, place) => [frame.index, place]));
  for (const { index, decision } of done) {
    queue[places.get(index)].decision = decision;
    kept.delete(index);
  }
  return done.map(({ index }) => places.get(index));
}

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
  shown = { ...facts, soft: null };
  shown.mask = new Mask(facts.width, facts.height, facts.person ?? facts.teacher);
  shown.doubt = new Mask(facts.width, facts.height, facts.person ? [] : facts.ignored);
  warned = false;
  object = -1;
  cursor = null;
  view.fit(facts.width, facts.height);
  if (soft) await fetchSoft();
  draw();
  tell();
  for (let i = 1; i <= AHEAD && mine + i < queue.length; i++) load(mine + i).catch(() => {});
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
    say(error.message, "problem");
  }
}

// Deciding

async function settle(decision) {
  if (!shown) return;
  const wish = { index: queue[at].index, decision };
  if (decision === "accept" && (strokes.length || shown.person)) // the mask that is seen is what is meant
    Object.assign(wish, { decision: "mend", runs: shown.mask.runs() });
  history.push(await decide([wish]));
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
  const places = history.at(-1) ?? (!grid && queue[at].decision ? [at] : null);
  if (!places) return;
  askTwice();
  history.pop();
  await decide(places.map((place) => ({ index: queue[place].index, decision: "undo" })));
  if (grid) return openGrid(Math.floor(grid.start / PAGE) * PAGE);
  await show(places[0]);
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

function moveCursor(dx, dy) {
  cursor.x = Math.min(Math.max(cursor.x + dx, 0), shown.width - 1);
  cursor.y = Math.min(Math.max(cursor.y + dy, 0), shown.height - 1);
  const margin = 3 * view.scale, x = view.x + cursor.x * view.scale, y = view.y + cursor.y * view.scale;
  if (x < margin || y < margin || x > canvas.width - margin || y > canvas.height - margin)
    view.closeUp([cursor.x, cursor.y, 1, 1]);
}

canvas.addEventListener("pointerdown", (event) => {
  if (!shown) return;
  if (event.button === 1) return drag = { pan: true, x: event.clientX, y: event.clientY };
  const value = event.button === 2 || event.ctrlKey ? 0 : 1, start = view.pixel(event);
  canvas.setPointerCapture(event.pointerId);
  drag = { value, last: start };
  stroke(() => shown.mask.stamp(start.x, start.y, size, value));
});
canvas.addEventListener("pointermove", (event) => {
  if (!drag || !shown) return;
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
addEventListener("pointerup", () => drag = null);
canvas.addEventListener("contextmenu", (event) => event.preventDefault());
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  const box = canvas.getBoundingClientRect(), ratio = canvas.width / box.width;
  view.zoom(event.deltaY < 0 ? 1.25 : 0.8, (event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio);
  draw();
}, { passive: false });

// Frames that the teacher calls empty, a page at a time

async function openGrid(start = 0) {
  const open = queue.flatMap((frame, place) => frame.empty && !frame.decision ? [place] : []);
  start = start < open.length ? start : 0;
  grid = { start, places: open.slice(start, start + PAGE), out: new Set(), here: 0 };
  canvas.hidden = true;
  $("grid").hidden = false;
  const more = open.length ? `${open.length} undecided frames that the teacher calls empty.` : "No undecided frame that the teacher calls empty.";
  $("grid").innerHTML = "<p></p>";
  $("grid").firstChild.textContent = `${more} Arrows move, Space takes a frame out or in, Enter accepts those with a green border `
    + "as empty, PageDown shows others, G or Esc goes back.";
  grid.cells = await Promise.all(grid.places.map(cell));
  mark();
}

async function cell(place, i) {
  const figure = document.createElement("figure"), image = new Image(), caption = document.createElement("figcaption");
  caption.textContent = queue[place].name;
  figure.append(image, caption);
  figure.addEventListener("click", () => (grid.here = i, toggle(i)));
  $("grid").append(figure);
  try {
    image.src = URL.createObjectURL(await picture(queue[place].index, "frame"));
    image.onload = () => URL.revokeObjectURL(image.src);
  } catch (error) {
    caption.textContent = error.message;
    grid.out.add(i); // nobody has seen it
  }
  return figure;
}

function toggle(i) {
  grid.out.has(i) ? grid.out.delete(i) : grid.out.add(i);
  mark();
}

function mark() {
  grid.cells.forEach((figure, i) => {
    figure.classList.toggle("out", grid.out.has(i));
    figure.classList.toggle("here", grid.here === i);
  });
  grid.cells[grid.here]?.scrollIntoView({ block: "nearest" });
}

async function acceptGrid() {
  const places = grid.places.filter((_, i) => !grid.out.has(i));
  if (places.length) history.push(await decide(places.map((place) => ({ index: queue[place].index, decision: "accept" }))));
  await openGrid(grid.start + grid.out.size);
}

function closeGrid() {
  grid = null;
  canvas.hidden = false;
  $("grid").hidden = true;
  return resize(), show(at);
}

const step = (by) => () => (grid.here = Math.min(Math.max(grid.here + by, 0), grid.places.length - 1), mark());
const GRID_KEYS = {
  ArrowRight: step(1), ArrowLeft: step(-1), ArrowDown: step(6), ArrowUp: step(-6),
  " ": () => toggle(grid.here), Enter: acceptGrid, PageDown: () => openGrid(grid.start + PAGE),
  PageUp: () => openGrid(Math.max(grid.start - PAGE, 0)), g: closeGrid, Escape: closeGrid, u: undo,
};

// Keys

const FRAME_KEYS = {
  a: () => settle("accept"), Enter: () => settle("accept"), r: () => settle("reject"),
  n: () => leave(following(at)), ArrowRight: () => leave(at + 1), p: () => leave(at - 1), ArrowLeft: () => leave(at - 1),
  u: undo, g: async () => { await leave(at); await openGrid(); },
  z: () => { if (strokes.length) shown.mask.pixels = strokes.pop(); },
  c: clear,
  "[": () => size = Math.max(size - 1, 1), "]": () => size = Math.min(size + 1, 64),
  "+": () => view.zoom(1.25), "=": () => view.zoom(1.25), "-": () => view.zoom(0.8),
  0: () => view.fit(shown.width, shown.height),
  h: () => hidden = !hidden,
  t: async () => { soft = !soft; if (soft) await fetchSoft(); },
  Tab: () => {
    const boxes = shown.objects.bbox;
    if (!boxes.length) return;
    object = (object + 1) % boxes.length;
    view.closeUp(boxes[object]);
  },
  m: () => {
    const [x, y, w, h] = shown.objects.bbox[Math.max(object, 0)] ?? [shown.width / 2, shown.height / 2, 0, 0];
    cursor = { x: Math.floor(x + w / 2), y: Math.floor(y + h / 2) };
    view.closeUp([cursor.x, cursor.y, 8, 8]);
  },
};

const MEND_KEYS = {
  ...FRAME_KEYS,
  ArrowLeft: (far) => moveCursor(-far, 0), ArrowRight: (far) => moveCursor(far, 0),
  ArrowUp: (far) => moveCursor(0, -far), ArrowDown: (far) => moveCursor(0, far),
  " ": () => stroke(() => shown.mask.stamp(cursor.x, cursor.y, size, 1)),
  x: () => stroke(() => shown.mask.stamp(cursor.x, cursor.y, size, 0)),
  Backspace: () => stroke(() => shown.mask.stamp(cursor.x, cursor.y, size, 0)),
  Escape: () => (cursor = null, view.fit(shown.width, shown.height)),
};

const DECIDING = ["a", "Enter", "r", "u"];
let busy = Promise.resolve(); // keys are dealt with one after the other, however fast they come
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (event.repeat && DECIDING.includes(key)) return; // held down, it would decide about frames that nobody saw
  if ([" ", "Tab", "ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "PageDown", "PageUp", "Backspace"].includes(key)) event.preventDefault();
  busy = busy.then(async () => {
    const action = (grid ? GRID_KEYS : cursor ? MEND_KEYS : FRAME_KEYS)[key];
    if (!action || (!grid && !shown && !["n", "p", "ArrowLeft", "ArrowRight", "g", "u"].includes(key))) return;
    await action(event.shiftKey ? 8 : 1);
    if (!grid && shown) draw(), tell();
  }).catch((error) => say(error.message, "problem"));
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

busy = (async () => {
  const { run, reviewer, frames } = await (await ask("/api/queue")).json();
  queue = frames;
  document.title = `Review of ${run}, ${reviewer}`;
  resize();
  await show(Math.max(queue.findIndex((frame) => !frame.decision), 0));
})().catch((error) => say(error.message, "problem"));
