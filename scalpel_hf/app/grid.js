"use strict";
// Frames that the teacher calls empty, a page at a time.
const PAGE = 24;
let grid = null; // the page on the screen: its places in the queue, which are taken out, and where the person is

async function openGrid(start = 0) {
  const open = queue.flatMap((frame, place) => frame.empty && !frame.decision ? [place] : []);
  start = start < open.length ? start : 0;
  grid = { start, places: open.slice(start, start + PAGE), out: new Set(), here: 0 };
  canvas.hidden = true;
  $("grid").hidden = false;
  $("grid").innerHTML = "<p></p>";
  $("grid").firstChild.textContent = `Undecided frames that the teacher calls empty: ${open.length}. Arrows move, `
    + "Space takes a frame out or in, Enter accepts those with a green border as empty, PageDown shows others, "
    + "G or Esc goes back.";
  grid.cells = await Promise.all(grid.places.map(cell));
  mark();
}

async function cell(place, i) {
  const figure = document.createElement("figure"), image = new Image(), caption = document.createElement("figcaption");
  figure.role = "checkbox";
  figure.ariaLabel = image.alt = caption.textContent = queue[place].name;
  figure.append(image, caption);
  figure.addEventListener("click", () => { if (!waiting) grid.here = i, toggle(i); });
  $("grid").append(figure);
  try {
    image.src = URL.createObjectURL(await picture(queue[place].index, "frame"));
    image.onload = () => URL.revokeObjectURL(image.src);
  } catch (error) {
    figure.ariaLabel = caption.textContent = error.message;
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
    figure.ariaChecked = !grid.out.has(i);
    figure.tabIndex = grid.here === i ? 0 : -1;
  });
  grid.cells[grid.here]?.focus({ preventScroll: true });
  grid.cells[grid.here]?.scrollIntoView({ block: "nearest" });
}

async function acceptGrid() {
  const places = grid.places.filter((_, i) => !grid.out.has(i));
  if (places.length) {
    await decide(places, "accept");
    history.push(places);
  }
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
  PageUp: () => openGrid(Math.max(grid.start - PAGE, 0)), g: closeGrid, Escape: closeGrid, u: () => undo(),
};
