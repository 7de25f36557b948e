// The live panel of a batch. The kernel sends numbered events, previews of rows and a head; what is asked for goes back
// by `model.send` only: the messages are listed in `courier.py`. Whatever a model, a cell or a column says reaches the
// page as text, never as markup.

const [WAITING, OK, FAILED, CANCELLED, STORED, FLYING] = [0, 1, 2, 3, 4, 5];
const WORDS = ["waiting", "ok", "failed", "cancelled", "from the store", "in flight"];
const NAMES = ["waiting", "ok", "failed", "cancelled", "stored", "flying"];
const ROW = 26; // px, as in panel.css
const TALLEST = 8e6; // px: browsers cut elements off somewhere above 16 million
const EXACT = 1e6; // px at each end of a list taller than that where the scroll bar is exact
const PREVIEWS = 20000;
const FEW = 3; // rows in flight above those that are answered
const CALM = 350; // ms between two changes of the order: rows that fly past cannot be read
const PAGE = Math.random().toString(36).slice(2); // another one after a reload
const AUTO = "As many as the server is found to work on";
const DISCONNECTED = "Disconnected: the kernel was restarted.";
const ON_DISK = " What was answered is on disk; run the cell again.";
const DEAF = "This kernel hears no click until the cell has ended. ■ in the toolbar stops the cell.";
const BUSY = "The kernel is busy with a cell; this click waits for its end. ■ stops the cell.";

// ---- words and numbers

const whole = new Intl.NumberFormat("en-US");
const number = (n) => whole.format(n);
const seconds = (s) => (s < 9.95 ? `${s.toFixed(1)} s` : clock(s));

function clock(s) {
  const t = Math.max(0, Math.round(s));
  const two = (n) => String(Math.floor(n)).padStart(2, "0");
  return t < 3600 ? `${Math.floor(t / 60)}:${two(t % 60)}` : `${Math.floor(t / 3600)} h ${two((t / 60) % 60)}`;
}

function speed(rate) {
  if (rate >= 10 || rate === 0) return `${number(Math.round(rate))} /s`;
  return rate >= 1 ? `${rate.toFixed(1)} /s` : `${(rate * 60).toFixed(rate < 1 / 6 ? 1 : 0)} /min`;
}

const ESCAPES = /\x1b(?:\[[0-?]*[ -/]*[@-~]?|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])?|\x9b[0-?]*[ -/]*[@-~]/g;

const oneLine = (text) => String(text ?? "").replace(ESCAPES, "").replace(/[\0-\x1f\x7f-\x9f\u2028\u2029]+/g, " ");

// In the detail nothing is left out: what cannot be seen is drawn (␛ for an escape).
const visible = (text) =>
  String(text ?? "")
    .replace(/\r\n/g, "\n")
    .replace(/[\0-\x08\x0b-\x1f\x7f]/g, (c) => String.fromCharCode(c === "\x7f" ? 0x2421 : 0x2400 + c.charCodeAt(0)))
    .replace(/[\x80-\x9f]/g, "\ufffd");

// Python counts code points, a JavaScript string counts UTF-16 units.
function points(text) {
  let n = text.length;
  for (let i = 0; i < text.length - 1; i++) {
    if ((text.charCodeAt(i) & 0xfc00) === 0xd800 && (text.charCodeAt(i + 1) & 0xfc00) === 0xdc00) n--;
  }
  return n;
}

// ---- the page

function make(tag, name, attributes = {}, ...children) {
  const svg = tag === "svg" || tag === "path";
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  if (name) node.setAttribute("class", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

const button = (name, text, attributes = {}) => make("button", name, { type: "button", ...attributes }, text);

// Touching the page only where it changes keeps a selection, a tooltip and a screen reader's place.
function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function mark(node, key, value) {
  if (value === null || value === false) node.removeAttribute(key);
  else if (node.getAttribute(key) !== String(value)) node.setAttribute(key, value);
}

// A focused button that is `disabled` would let the focus fall to the notebook.
const enable = (node, on) => mark(node, "aria-disabled", on ? null : "true");
const enabled = (node) => node.getAttribute("aria-disabled") !== "true";

// ---- what is known of the batch, shared by all views

function numbers(view) {
  if (!view) return new Uint32Array(0);
  const [buffer, from] = ArrayBuffer.isView(view) ? [view.buffer, view.byteOffset] : [view, 0];
  const n = view.byteLength >> 2;
  return from % 4 ? new Uint32Array(buffer.slice(from, from + n * 4)) : new Uint32Array(buffer, from, n);
}

function grown(array, size) {
  if (array.length >= size) return array;
  const larger = new array.constructor(Math.max(size, array.length * 2, 1024));
  larger.set(array);
  return larger;
}

class Story {
  constructor(model) {
    this.model = model;
    this.views = new Set();
    this.head = null;
    this.headAt = 0;
    this.alive = true;
    this.size = 0; // rows known of
    this.status = new Uint8Array(0); // by position
    this.log = new Uint32Array(0); // positions as they were answered
    this.logged = 0;
    this.place = new Uint32Array(0); // by position: 1 + its place in the log; 0: none
    this.have = 0; // events applied
    this.moves = 0; // how often an answered row was asked again
    this.version = 0;
    this.flying = new Uint32Array(0); // newest first
    this.live = new Map();
    this.previews = new Map();
    this.time = null;
    this.clicks = new Map(); // not yet acknowledged
    this.trouble = null;
    this.asked = new Map(); // rows wanted and not yet here
    this.wanted = new Set();
    this.nextId = Math.floor(Math.random() * 2 ** 30); // another tab may talk to the same kernel
    this.hellos = 0;
    this.helloAt = -1e9;
    this.estimate = null;
    this.parted = false; // its end was said
  }

  start() {
    const mount = () => {
      if (this.model.get("placeholder")) this.mounts ??= new Mounts(this, this.model.get("key"));
    };
    this.ears = {
      "msg:custom": (content, buffers) => this.alive && this.receive(content, buffers ?? []),
      // Told when the kernel restarts; anywidget's model does not say which way it went.
      comm_live_update: () => this.model.comm_live !== true && this.disconnect(),
      "comm:close": () => this.disconnect(),
      "change:placeholder": mount,
    };
    for (const [event, ear] of Object.entries(this.ears)) this.model.on(event, ear);
    this.pulse = setInterval(() => this.tick(), 250);
    this.hello();
    mount();
  }

  stop() {
    for (const [event, ear] of Object.entries(this.ears)) this.model.off(event, ear);
    clearInterval(this.pulse);
    clearTimeout(this.wanting);
    this.disconnect();
  }

  disconnect() {
    if (!this.alive) return;
    this.stoodAt = performance.now();
    this.alive = false;
    this.mounts?.stop();
    this.changed();
  }

  send(message) { if (this.alive) this.model.send(message); }

  hello() {
    this.helloAt = performance.now();
    this.hellos += 1;
    this.send({ type: "hello", have: this.have, page: PAGE });
  }

  changed() { for (const view of this.views) view.ask(); }
  get title() { return oneLine(this.head?.title || this.model.get("title")); }
  get moving() { return this.alive && this.head?.state === "running"; }
  get ended() { return ["done", "cancelled", "stopped", "left"].includes(this.head?.state); }
  since(at) { return Math.max(0, ((this.alive ? performance.now() : this.stoodAt) - at) / 1000); }

  tick() {
    if (!this.head && this.alive && this.hellos < 5 && this.since(this.helloAt) > 3) this.hello();
    if (this.trouble && this.since(this.trouble.at) > 8) this.trouble = null;
    const works = !this.ended && (this.head?.flying || this.head?.note);
    const waits = this.clicks.size || this.asked.size || !this.head || works;
    if (this.alive && (this.moving || waits)) this.changed();
    for (const view of this.views) view.second();
  }

  receive(content, buffers) {
    if (content.type === "update") this.update(content, buffers);
    else if (content.type === "rows") this.keep(content.rows);
    else if (content.type === "ack") this.ack(content);
    else for (const view of this.views) view.hear(content, numbers(buffers[0]));
    this.changed();
  }

  ack(content) {
    const click = this.clicks.get(content.id);
    if (!click) return;
    this.clicks.delete(content.id);
    if (content.error) this.trouble = { text: oneLine(content.error), at: performance.now() };
  }

  update(content, buffers) {
    const first = !this.head;
    const ran = this.moving;
    this.head = content.head;
    this.headAt = performance.now();
    this.hellos = 0;
    this.foresee();
    this.resize(content.head.total ?? content.head.known);
    this.land();
    const events = numbers(buffers[0]);
    if (content.from <= this.have) this.apply(events.subarray(this.have - content.from));
    this.takeOff(numbers(buffers[1]));
    this.live = new Map((content.live ?? []).map((row) => [row[0], row]));
    this.keep(content.rows ?? []);
    const gap = content.from > this.have || (content.time && !this.draw(content.time));
    if (gap && this.since(this.helloAt) > 1) this.hello();
    if (first) this.mounts?.look();
    if (this.moving) this.parted = false;
    if (ran && this.ended) this.farewell();
  }

  // The panel is gone in the moment in which its batch ends, or was before: what is said then has to outlive it.
  farewell() {
    this.parted = true;
    const { state, ok, failed, known, total } = this.head;
    const words = [state, `${number(ok + failed)} of ${number(total ?? known)}`];
    if (failed) words.push(`${number(failed)} failed`);
    announce(`${this.title}: ${words.join(", ")}`);
  }

  resize(size) {
    this.size = Math.max(this.size, size ?? 0);
    this.status = grown(this.status, this.size);
    this.place = grown(this.place, this.size);
  }

  apply(events) {
    this.log = grown(this.log, this.logged + events.length);
    for (const event of events) {
      const position = event >>> 3;
      if (position >= this.size) this.resize(position + 1);
      this.status[position] = event & 7;
      if (this.place[position]) this.moves += 1;
      const preview = this.previews.get(position);
      if (preview) preview.stale = true;
      if ((event & 7) === WAITING) this.place[position] = 0;
      else this.place[position] = (this.log[this.logged++] = position, this.logged);
    }
    this.have += events.length;
    if (events.length) this.version += 1;
  }

  land() {
    for (const position of this.flying) if (this.status[position] === FLYING) this.status[position] = WAITING;
  }

  takeOff(positions) {
    for (const position of positions) {
      if (position >= this.size) this.resize(position + 1);
      if (this.status[position] === WAITING) this.status[position] = FLYING;
    }
    const same = positions.length === this.flying.length && positions.every((p, i) => p === this.flying[i]);
    if (!same) this.version += 1;
    this.flying = positions.filter((position) => this.status[position] === FLYING);
  }

  // The timeline comes in pieces; false: one is missing.
  draw(time) {
    const had = this.time?.width === time.width ? this.time.bins : [];
    if (time.from > had.length) return false;
    const bins = [...had.slice(0, time.from), ...time.bins];
    this.time = { width: time.width, bins, holds: time.holds ?? [], now: time.now };
    return true;
  }

  keep(rows) {
    for (const [position, label, asked, said, took] of rows) {
      const name = label === null ? number(position) : oneLine(label);
      this.previews.delete(position); // so that it comes last
      this.previews.set(position, { label: name, asked: oneLine(asked), said: oneLine(said), took, stale: false });
      this.asked.delete(position);
    }
    for (const oldest of this.previews.keys()) {
      if (this.previews.size <= PREVIEWS) break;
      this.previews.delete(oldest);
    }
  }

  want(positions) {
    const known = this.head?.known ?? 0;
    for (const p of positions) if (p < known && this.previews.get(p)?.stale !== false) this.wanted.add(p);
    if (this.wanted.size && !this.wanting) this.wanting = setTimeout(() => this.askForRows(), 80);
  }

  // Asked again after 3 s, 6 s, 12 s: a kernel that is busy for an hour must not find a heap of the same questions.
  askForRows() {
    this.wanting = null;
    const now = performance.now();
    const due = ([, asked]) => !asked || now - asked.at > 3000 * 2 ** asked.times;
    const positions = [...this.wanted].map((p) => [p, this.asked.get(p)]).filter(due).slice(0, 200);
    this.wanted.clear();
    for (const [p, asked] of positions) this.asked.set(p, { at: now, times: asked ? Math.min(asked.times + 1, 8) : 0 });
    if (this.asked.size > 5000) this.asked.clear();
    if (positions.length) this.send({ type: "want", positions: positions.map(([p]) => p) });
  }

  click(what, value) {
    const id = this.nextId++;
    this.clicks.set(id, { what, value, at: performance.now() });
    this.send({ type: "do", what, id, ...(value === undefined ? {} : { value }) });
    this.changed();
  }

  // What is left runs down evenly; a new estimate is shown only where it differs by something.
  foresee() {
    const sent = this.head.left;
    const shown = this.left();
    if (sent === null || shown === null || Math.abs(sent - shown) > Math.max(1.5, 0.06 * sent) || !this.moving) {
      this.estimate = sent === null ? null : { left: sent, at: performance.now() };
    }
  }

  left() {
    return this.estimate && Math.max(0, this.estimate.left - (this.moving ? this.since(this.estimate.at) : 0));
  }

  elapsed() { return this.head.elapsed + (this.head.state === "running" ? this.since(this.headAt) : 0); }

  hold() {
    if (!this.head?.hold || this.ended) return null;
    const left = Math.ceil(this.head.hold.seconds - this.since(this.headAt));
    return left > 0 ? { left, reason: oneLine(this.head.hold.reason) } : null;
  }
}

// ---- which rows a view lists, and in which order

class Listing {
  constructor(story) {
    this.story = story;
    this.show = "all";
    this.order = "newest";
    this.found = null; // by position: 1 where the text was found
    this.finds = 0;
    this.top = new Uint32Array(0); // in flight
    this.rest = new Uint32Array(0); // newest first: oldest answered at its start; else ascending
    this.count = 0;
    this.read = 0; // of the log
    this.key = null;
  }

  get ascending() { return this.order === "input" || this.show === "waiting"; }
  get everything() { return this.ascending && this.show === "all" && !this.found; }
  get length() { return this.everything ? this.story.size : this.top.length + this.count; }

  refresh() {
    const { moves, version, size } = this.story;
    const kind = [this.show, this.order].join();
    const past = [kind, this.finds, moves].join();
    const key = [past, version, size].join();
    if (key === this.key) return true;
    const now = performance.now();
    if (kind === this.kind && now - this.builtAt < CALM && !this.story.ended) return false;
    if (this.ascending) this.sweep();
    else this.follow(past !== this.past);
    Object.assign(this, { kind, past, key, builtAt: now });
    return true;
  }

  sweep() {
    const { status, size } = this.story;
    this.top = new Uint32Array(0);
    this.count = 0;
    if (this.everything) return;
    const wanted = { failed: FAILED, flying: FLYING, waiting: WAITING }[this.show];
    this.rest = grown(this.rest, size);
    for (let p = 0; p < size; p++) {
      if ((wanted === undefined || status[p] === wanted) && (!this.found || this.found[p])) this.rest[this.count++] = p;
    }
  }

  // Answered rows are only ever added, so only the log's new end is read; after a retry it is read anew.
  follow(anew) {
    const { status, log, logged, place, flying } = this.story;
    if (anew) this.read = this.count = 0;
    const found = (p) => !this.found || this.found[p] === 1;
    this.top = this.show === "failed" ? new Uint32Array(0) : flying.filter(found);
    if (this.show === "flying") return;
    if (this.show === "all" && logged) this.top = this.top.slice(-FEW); // a hundred would hide what is answered
    this.rest = grown(this.rest, this.count + logged - this.read);
    for (; this.read < logged; this.read++) {
      const p = log[this.read];
      if (place[p] !== this.read + 1 || (this.show === "failed" && status[p] !== FAILED) || !found(p)) continue;
      this.rest[this.count++] = p;
    }
  }

  at(index) {
    if (this.everything) return index;
    if (index < this.top.length) return this.top[index];
    return this.ascending ? this.rest[index] : this.rest[this.count - 1 - (index - this.top.length)];
  }

  indexOf(position) {
    if (this.everything) return position < this.story.size ? position : -1;
    const flying = this.top.indexOf(position);
    const at = flying < 0 && this.count ? this.rest.lastIndexOf(position, this.count - 1) : -1;
    if (at < 0) return flying;
    return this.ascending ? at : this.top.length + this.count - 1 - at;
  }

  seek(text) {
    this.found = text ? new Uint8Array(this.story.size) : null;
    this.hits = 0;
    this.finds += 1;
  }

  find(positions) {
    for (const p of positions) {
      this.found = grown(this.found, p + 1);
      if (!this.found[p]) this.hits += 1;
      this.found[p] = 1;
    }
    if (positions.length) this.finds += 1;
  }
}

// ---- the scroll bar of a list that may be taller than a browser can make an element

class Scroll {
  constructor(scroller, sizer, view) {
    Object.assign(this, { scroller, sizer, panel: view, top: 0, last: 0, height: 0, view: 0, movedAt: -1e9 });
    scroller.addEventListener("scroll", () => this.moved(), { passive: true });
  }

  get room() { return Math.max(0, Math.min(this.height, TALLEST) - this.view); }
  get end() { return Math.max(0, this.height - this.view); }

  toTop(bar) {
    if (this.room === this.end || bar <= EXACT) return bar;
    if (bar >= this.room - EXACT) return this.end - (this.room - bar);
    return EXACT + ((bar - EXACT) / (this.room - 2 * EXACT)) * (this.end - 2 * EXACT);
  }

  toBar(top) {
    if (this.room === this.end || top <= EXACT) return top;
    if (top >= this.end - EXACT) return this.room - (this.end - top);
    return EXACT + ((top - EXACT) / (this.end - 2 * EXACT)) * (this.room - 2 * EXACT);
  }

  // A wheel moves by pixels, a dragged thumb by shares of the whole.
  moved() {
    const bar = this.scroller.scrollTop;
    const by = bar - this.last;
    if (Math.abs(by) < 0.5) return;
    const jump = Math.abs(by) > 2 * this.view || bar <= 0 || bar >= this.room - 1;
    this.to(jump ? this.toTop(bar) : this.top + by);
    this.last = bar;
    this.movedAt = performance.now();
    this.panel.ask();
  }

  to(top) { this.top = Math.min(Math.max(0, top), this.end); }

  measure(rows, view) {
    this.view = view;
    if (this.height !== rows * ROW) {
      this.height = rows * ROW;
      this.sizer.style.height = `${Math.min(this.height, TALLEST)}px`;
    }
    this.to(this.top);
  }

  // Brings the bar to where the list is; not while somebody scrolls, which that would stop.
  settle() {
    const bar = Math.round(this.toBar(this.top));
    const off = Math.abs(this.scroller.scrollTop - bar) >= 1;
    if (off && performance.now() - this.movedAt < 150) this.panel.askLater();
    else if (off) this.scroller.scrollTop = bar;
    this.last = this.scroller.scrollTop;
  }
}

// ---- the table

const ids = `ceylon-${Math.random().toString(36).slice(2)}`; // each batch loads this file anew
let made = 0;

class Table {
  constructor(story, listing, view) {
    Object.assign(this, { story, listing, view, active: null, seen: 0, rows: new Map(), spare: [], label: 3 });
    this.layer = make("div", "ceylon-layer", { role: "rowgroup" });
    this.sizer = make("div", "ceylon-sizer", { role: "presentation" }, this.layer);
    const columns = ["Row", "State", "Asked", "Said", "Time"].map((n) => make("span", "", { role: "columnheader" }, n));
    const names = make("div", "ceylon-hidden", { role: "row", "aria-rowindex": 1 }, ...columns);
    this.grid = make("div", "ceylon-rows", {
      role: "grid", tabindex: 0, "aria-label": "Rows", "aria-readonly": "true",
    }, names, this.sizer);
    this.empty = make("div", "ceylon-empty");
    this.fresh = button("ceylon-fresh", "", { hidden: "" });
    this.scroll = new Scroll(this.grid, this.sizer, view);
    this.listen();
  }

  listen() {
    const rowOf = (event) => event.target.closest?.(".ceylon-row")?.dataset.position;
    // Rows may move between press and release: what was pressed is meant.
    this.grid.addEventListener("pointerdown", (event) => {
      this.pressed = { position: rowOf(event), x: event.clientX, y: event.clientY };
    });
    this.grid.addEventListener("click", (event) => {
      const position = this.pressed?.position ?? rowOf(event);
      const dragged = this.pressed && Math.hypot(event.clientX - this.pressed.x, event.clientY - this.pressed.y) > 5;
      this.pressed = null;
      const again = event.detail > 1; // the second half of a double click must not close it
      if (position !== undefined && !dragged && !again) this.view.open(Number(position));
    });
    this.grid.addEventListener("keydown", (event) => this.key(event));
    this.fresh.addEventListener("click", () => this.toTop());
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    const page = Math.max(1, Math.floor(this.scroll.view / ROW) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (event.key in steps) this.step(steps[event.key]);
    else if ((event.key === "Enter" || event.key === " ") && this.active !== null) this.view.open(this.active);
    else return;
    event.preventDefault();
  }

  step(by) {
    const n = this.listing.length;
    if (!n) return;
    const at = this.active === null ? -1 : this.listing.indexOf(this.active);
    const first = Math.ceil(this.scroll.top / ROW);
    const index = at < 0 && Math.abs(by) === 1 ? first : Math.max(0, Math.min(n - 1, (at < 0 ? first : at) + by));
    this.active = this.listing.at(index);
    this.reveal(index);
    if (this.view.detail.position !== null) this.view.open(this.active, true);
    this.view.ask();
  }

  reveal(index) {
    const top = index * ROW;
    if (top < this.scroll.top) this.scroll.to(top);
    else if (top + ROW > this.scroll.top + this.scroll.view) this.scroll.to(top + ROW - this.scroll.view);
  }

  toTop() {
    this.active = this.view.detail.position;
    this.grid.focus({ preventScroll: true });
    this.scroll.to(0);
    this.jump = true;
    this.view.ask();
  }

  // The rows that must not move while others arrive above them: what somebody reads, each with its place in sight.
  anchors() {
    const { scroll, listing } = this;
    const focused = this.grid.getRootNode().activeElement === this.grid;
    const first = Math.ceil(scroll.top / ROW);
    const last = Math.min(listing.length, Math.floor((scroll.top + scroll.view) / ROW)) - 1;
    const anchor = (index) => ({ position: listing.at(index), offset: index * ROW - scroll.top });
    const held = this.view.detail.position ?? (focused ? this.active : null);
    const at = held === null ? -1 : listing.indexOf(held);
    if (at >= first && at <= last) return [anchor(at)];
    if (scroll.top < 1) return [];
    return Array.from({ length: Math.max(0, Math.min(5, last - first + 1)) }, (_, i) => anchor(first + i));
  }

  // Where most of them went: one that is asked again goes to the top, and nobody wants to follow it.
  hold(anchors) {
    const tops = [];
    for (const { position, offset } of anchors) {
      const index = this.listing.indexOf(position);
      if (index >= 0) tops.push(index * ROW - offset);
    }
    if (tops.length) this.scroll.to(tops.sort((one, other) => one - other)[tops.length >> 1]);
  }

  paint() {
    this.scroll.moved(); // the event may come after this frame
    const anchors = this.jump ? [] : this.anchors();
    this.jump = false;
    if (!this.listing.refresh()) this.view.askLater();
    const height = this.view.tableHeight;
    this.scroll.measure(this.listing.length, height);
    this.hold(anchors);
    this.scroll.settle();
    this.layRows(height);
    this.paintEdges();
  }

  layRows(height) {
    const first = Math.floor(this.scroll.top / ROW);
    const last = Math.min(this.listing.length, Math.ceil((this.scroll.top + height) / ROW));
    const shown = new Map();
    for (let i = first; i < last; i++) shown.set(this.listing.at(i), i);
    for (const [position, row] of this.rows) {
      if (shown.has(position)) continue;
      this.rows.delete(position);
      this.spare.push(row);
      row.node.remove();
    }
    let place = this.layer.firstChild;
    for (const [position, index] of shown) {
      const row = this.rows.get(position) ?? this.spare.pop() ?? this.newRow();
      this.rows.set(position, row);
      if (row.node === place) place = place.nextSibling;
      else this.layer.insertBefore(row.node, place);
      this.fill(row, position, index);
    }
    this.layer.style.height = `${height}px`;
    this.layer.style.setProperty("--ceylon-shift", `${first * ROW - this.scroll.top}px`);
    this.story.want([...shown.keys()]);
  }

  newRow() {
    const cell = (name, ...inside) => make("div", `ceylon-${name}`, { role: "gridcell", dir: "auto" }, ...inside);
    const dot = make("i", "ceylon-dot", { role: "img" });
    const tail = make("span", "ceylon-tail");
    const [label, asked, said, took] = [cell("label"), cell("asked"), cell("said", tail), cell("took")];
    const node = make("div", "ceylon-row", { role: "row" }, label, cell("state", dot), asked, said, took);
    node.id = `${ids}-${(made += 1)}`;
    return { node, label, dot, asked, said, tail, took };
  }

  fill(row, position, index) {
    const preview = this.story.previews.get(position);
    const status = this.story.status[position];
    const live = status === FLYING ? this.story.live.get(position) : null;
    const said = this.said(status, preview, live);
    mark(row.node, "data-position", position);
    mark(row.node, "data-status", NAMES[status]);
    mark(row.node, "data-kind", live?.[4] ? "held" : live?.[3] ? "streaming" : null);
    mark(row.node, "aria-rowindex", index + 2);
    mark(row.node, "aria-selected", position === this.active);
    mark(row.dot, "aria-label", WORDS[status]);
    write(row.label, preview?.label ?? number(position));
    write(row.asked, preview?.asked ?? "");
    write(row.tail, said);
    write(row.took, this.took(status, preview, live));
    const named = preview && preview.label !== number(position) ? preview.label.length : 0;
    this.label = Math.max(this.label, Math.min(12, named));
  }

  said(status, preview, live) {
    if (status === FLYING) return oneLine(live?.[4] || live?.[3] || "");
    if (status === WAITING) return "";
    if (status === CANCELLED) return "cancelled";
    return preview && !preview.stale ? preview.said : "";
  }

  took(status, preview, live) {
    if (status === STORED) return "stored";
    if (status === FLYING) return live ? seconds(live[2] + this.story.since(this.story.headAt)) : "";
    const took = status === WAITING || preview?.stale ? null : preview?.took;
    return typeof took === "number" ? seconds(took) : "";
  }

  paintEdges() {
    const { listing, scroll } = this;
    if (scroll.top < 1 || listing.ascending || this.kind !== listing.kind) this.seen = listing.count;
    this.kind = listing.kind;
    const fresh = listing.count - this.seen;
    if (fresh > 0) write(this.fresh, `${number(fresh)} new ${fresh === 1 ? "row" : "rows"} ↑`);
    else if (this.fresh.getRootNode().activeElement === this.fresh) this.grid.focus({ preventScroll: true });
    this.fresh.hidden = fresh <= 0;
    write(this.empty, listing.length ? "" : this.view.nothing());
    mark(this.grid, "aria-rowcount", listing.length + 1);
    const row = this.active === null ? null : this.rows.get(this.active);
    mark(this.grid, "aria-activedescendant", row ? row.node.id : null);
    const digits = String(this.story.size).length;
    this.grid.style.setProperty("--ceylon-label", `${Math.max(this.label, digits + (digits - 1) / 6)}ch`);
  }
}

// ---- one row, whole

class LongText {
  constructor(title, field, detail) {
    Object.assign(this, { field, detail, got: 0, length: 0 });
    this.text = make("div", "ceylon-text", { dir: "auto" });
    this.more = button("ceylon-more", "", { hidden: "" });
    this.note = make("span", "ceylon-dim");
    const heading = make("h4", "", {}, title, this.note);
    this.node = make("section", `ceylon-part ceylon-part-${field}`, {}, heading, this.text, this.more);
    this.more.addEventListener("click", () => enabled(this.more) && this.ask());
  }

  set(text, length) {
    const first = this.text.firstChild ?? this.text.appendChild(make("div"));
    const [now, then] = [first.textContent, visible(text)];
    if (this.text.childNodes.length > 1 && now.startsWith(then)) return this.paint(length);
    // Adding to the text keeps a selection within it.
    if (first.firstChild && then.startsWith(now)) first.firstChild.appendData(then.slice(now.length));
    else first.textContent = then;
    this.text.replaceChildren(first);
    this.got = points(text);
    this.paint(length);
  }

  ask() {
    enable(this.more, false);
    this.detail.story.send({ type: "more", position: this.detail.position, field: this.field, offset: this.got });
  }

  add(content) {
    if (content.offset !== this.got || !content.text) return;
    this.got += points(content.text);
    this.grow(visible(content.text));
    this.paint(this.length);
  }

  // In pieces, each laid out by itself, and only where it is seen; broken at a line's end if there is one.
  grow(text) {
    const cut = text.indexOf("\n");
    if (cut >= 0) this.text.lastChild.append(text.slice(0, cut));
    const piece = this.text.appendChild(make("div", "ceylon-piece"));
    piece.textContent = text.slice(cut + 1);
  }

  paint(length) {
    this.length = length;
    const rest = Math.max(0, length - this.got);
    write(this.note, length >= 1000 ? ` ${number(length)} characters` : "");
    if (!rest && this.more.getRootNode().activeElement === this.more) this.detail.body.focus({ preventScroll: true });
    this.more.hidden = !rest;
    enable(this.more, true);
    write(this.more, `more (${number(rest)} left)`);
  }
}

class Detail {
  constructor(story, view) {
    Object.assign(this, { story, view, position: null, flying: false, askedAt: 0, waits: false });
    this.label = make("b", "ceylon-detail-label", { dir: "auto" });
    this.facts = make("span", "ceylon-dim ceylon-facts");
    this.shut = button("ceylon-shut", "×", { "aria-label": "Close (Escape)", title: "Close (Esc)" });
    this.error = make("div", "ceylon-error", { dir: "auto" });
    this.advice = make("div", "ceylon-advice", { dir: "auto" });
    this.said = new LongText("Reply", "said", this);
    this.asked = new LongText("Prompt", "asked", this);
    this.attempts = make("ol", "ceylon-attempts", { "aria-label": "Attempts" });
    const parts = [this.error, this.advice, this.said.node, this.asked.node, this.attempts];
    this.body = make("div", "ceylon-detail-body", { tabindex: 0 }, ...parts);
    const bar = make("div", "ceylon-detail-head", {}, this.label, this.facts, this.shut);
    this.node = make("section", "ceylon-detail", { "aria-label": "The row that is open", hidden: "" }, bar, this.body);
    this.shut.addEventListener("click", () => this.view.close());
  }

  open(position, later) {
    this.position = position;
    const preview = this.story.previews.get(position);
    write(this.label, preview?.label ?? number(position));
    write(this.facts, this.story.alive ? "opening…" : "the kernel is gone: there is no more than this");
    this.attempts.hidden = true;
    this.node.hidden = false;
    this.body.scrollTop = 0;
    for (const part of [this.error, this.advice, this.attempts]) part.replaceChildren();
    for (const part of [this.said, this.asked]) part.text.replaceChildren();
    this.said.set(preview?.said ?? "", 0);
    this.asked.set(preview?.asked ?? "", 0);
    this.waits = true;
    clearTimeout(this.asking);
    this.asking = setTimeout(() => this.ask(), later);
  }

  close() {
    clearTimeout(this.asking);
    this.position = null;
    this.node.hidden = true;
  }

  ask() {
    this.askedAt = performance.now();
    this.waits = true;
    this.story.send({ type: "open", position: this.position });
  }

  // A row in flight grows; a row that has changed since is asked for anew.
  second() {
    if (this.position === null || this.waits || !this.story.alive) return;
    const status = this.story.status[this.position];
    if ((this.flying || status !== this.status) && performance.now() - this.askedAt > 990) this.ask();
  }

  hear(content) {
    if (content.position !== this.position) return;
    if (content.type === "more") this[content.field]?.add(content);
    else this.fill(content);
  }

  fill(row) {
    this.waits = false;
    this.flying = row.flying;
    this.status = this.story.status[this.position];
    write(this.label, row.label === null ? number(row.position) : oneLine(row.label));
    write(this.facts, this.factsOf(row));
    mark(this.facts, "title", this.facts.textContent);
    mark(this.node, "data-status", row.flying ? "flying" : NAMES[row.code]);
    write(this.error, row.error ? `${visible(row.error.kind)}: ${visible(row.error.text)}` : "");
    write(this.advice, visible(row.error?.advice));
    this.said.set(row.said ?? "", row.said_length ?? 0);
    this.said.node.hidden = !row.said && Boolean(row.error);
    this.asked.set(row.asked ?? "", row.asked_length ?? 0);
    this.paintAttempts(row.attempts ?? []);
  }

  factsOf(row) {
    const tried = row.attempts?.length > 1 ? `${row.attempts.length} attempts` : null;
    const took = row.from_store ? "from the store" : typeof row.seconds === "number" ? seconds(row.seconds) : null;
    const read = row.tokens_in === null ? null : `${number(row.tokens_in)} → ${number(row.tokens_out ?? 0)} tokens`;
    const state = row.flying ? "in flight" : row.from_store ? null : WORDS[row.code];
    return [state, tried, took, read, row.finish_reason, row.model].filter(Boolean).map(oneLine).join(" · ");
  }

  paintAttempts(attempts) {
    this.attempts.hidden = attempts.every(([, , outcome]) => outcome === "ok");
    attempts.forEach(([began, took, outcome], i) => {
      const item = this.attempts.children[i] ?? this.attempts.appendChild(make("li"));
      write(item, `${oneLine(outcome)} after ${seconds(took)}, begun at ${clock(began)}`);
      mark(item, "data-outcome", outcome === "ok" ? "ok" : "failed");
    });
    while (this.attempts.children.length > attempts.length) this.attempts.lastChild.remove();
  }
}

// ---- in flight and done over time

class Timeline {
  constructor(story) {
    this.story = story;
    const kinds = ["flying", "rate", "retries", "limited", "failures", "holds"];
    this.paths = Object.fromEntries(kinds.map((kind) => [kind, make("path", `ceylon-line-${kind}`)]));
    this.node = make("svg", "ceylon-timeline", {
      viewBox: "0 0 1000 30", preserveAspectRatio: "none", role: "img",
    }, ...Object.values(this.paths));
  }

  paint() {
    const { time, ended } = this.story;
    if (!time || time === this.time) return;
    this.time = time;
    const { bins, width, holds } = time;
    const span = this.span(Math.max(time.now, width), ended);
    const x = (s) => ((s / span) * 1000).toFixed(1);
    const peak = Math.max(1, ...bins.map((bin) => bin[0]));
    const fastest = Math.max(0, ...bins.map((bin) => bin[1]));
    const at = (i) => x(i ? Math.min((i + 0.5) * width, time.now) : 0);
    const line = (value, most, lowest) =>
      bins.map((bin, i) => `${i ? "L" : "M"}${at(i)} ${(lowest - (value(bin) / most) * (lowest - 4)).toFixed(1)}`);
    const area = line((bin) => bin[0], peak, 30);
    const rate = line((bin) => bin[1], fastest || 1, 28);
    const ticks = (value, from, to) => bins.map((bin, i) => (value(bin) ? `M${at(i)} ${from}V${to}` : "")).join("");
    const shapes = {
      flying: bins.length ? `M0 30L${area.join("").slice(1)}L${at(bins.length - 1)} 30Z` : "",
      rate: rate.slice(0, bins.length > 2 ? -1 : undefined).join(""), // the last bin is not full
      retries: ticks((bin) => bin[3], 0, 5),
      limited: ticks((bin) => bin[4], 0, 30),
      failures: ticks((bin) => bin[2], 25, 30),
      holds: holds.map(([from, until]) => `M${x(from)} 29H${x(Math.min(until ?? time.now, span))}`).join(""),
    };
    for (const [kind, d] of Object.entries(shapes)) mark(this.paths[kind], "d", d);
    const most = `at most ${number(peak)} in flight, ${speed(fastest / width)}`;
    mark(this.node, "aria-label", `The last ${clock(time.now)}: ${most}`);
  }

  // Room to the right, so that the drawing does not creep with every second.
  span(now, ended) {
    if (ended) return now;
    const decade = 10 ** Math.floor(Math.log10(Math.max(now, 20)));
    return [1, 1.5, 2, 3, 4, 6, 8, 10].map((n) => n * decade).find((n) => n >= Math.max(now, 20));
  }
}

// ---- what is above the table

class Face {
  constructor(story, view) {
    Object.assign(this, { story, view, wish: null });
    const dashed = (name) => name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    const text = (name, tag = "span") => (this[name] = make(tag, `ceylon-${dashed(name)}`));
    this.timeline = new Timeline(story);
    const parts = [this.makeHead(text), this.makeBar(), this.makeNumbers(text), this.makeSlot()];
    this.node = make("div", "ceylon-face", {}, ...parts);
  }

  makeHead(text) {
    const act = (what, name) => button("ceylon-button", name, { "data-do": what });
    const step = (way, sign, title) => button("ceylon-step", sign, { "data-step": way, "aria-label": title, title });
    this.pause = act("pause", "Pause");
    this.cancel = act("cancel", "Cancel");
    this.fewer = step("down", "−", "Fewer at once");
    this.more = step("up", "+", "More at once");
    this.auto = button("ceylon-step", "auto", { "data-step": "auto", "aria-pressed": "false", title: AUTO });
    const group = { role: "group", "aria-label": "At once", title: "At once: how many may be in flight" };
    this.stepper = make("span", "ceylon-stepper", group, this.fewer, text("atOnce", "b"), this.more, this.auto);
    const names = make("div", "ceylon-names", { dir: "auto" }, text("title"), text("subtitle"));
    const head = make("div", "ceylon-head", {}, names, this.stepper, this.pause, this.cancel);
    this.fewer.addEventListener("click", () => this.step(this.fewer, -1));
    this.more.addEventListener("click", () => this.step(this.more, 1));
    this.auto.addEventListener("click", () => this.adapt());
    for (const node of [this.pause, this.cancel]) node.addEventListener("click", () => this.view.act(node));
    return head;
  }

  makeBar() {
    const parts = ["stored", "ok", "failed", "cancelled", "flying"];
    this.parts = Object.fromEntries(parts.map((part) => [part, make("span", "", { "data-part": part, hidden: "" })]));
    const says = { role: "progressbar", "aria-label": "Progress", "aria-valuemin": 0 };
    this.bar = make("div", "ceylon-bar", says, ...Object.values(this.parts));
    return this.bar;
  }

  makeNumbers(text) {
    const group = (name, ...inside) => (this[name] = make("span", `ceylon-group ceylon-group-${name}`, {}, ...inside));
    const left = [
      group("progress", text("countDone", "b"), text("countTotal")),
      group("store", text("countStored")),
      group("air", text("countFlying", "b"), text("limit"), " in flight"),
      group("bad", text("countFailed", "b"), " failed"),
      group("why", text("kinds", "i")),
    ];
    const right = [["rate", "000 /s"], ["tokens", "0,000 tok/s"], ["elapsed", "00:00"], ["left", "00:00 left"]].map(
      ([name, room]) => make("span", `ceylon-group ceylon-group-${name}`, { "data-room": room }, text(name)),
    );
    const [counts, speeds] = [make("div", "ceylon-counts", {}, ...left), make("div", "ceylon-speeds", {}, ...right)];
    return make("div", "ceylon-numbers", {}, counts, speeds);
  }

  makeSlot() {
    this.noteText = [make("span"), make("b"), make("span")];
    this.note = make("div", "ceylon-note", { hidden: "", dir: "auto" }, make("div", "", {}, ...this.noteText));
    return make("div", "ceylon-slot", {}, this.timeline.node, this.note);
  }

  step(node, way) {
    const now = this.wish?.value ?? this.story.head?.at_once;
    if (!enabled(node) || !now) return;
    const up = now < 8 ? now + 1 : Math.round(now * 1.25);
    const down = now <= 8 ? now - 1 : Math.max(8, Math.round(now / 1.25));
    const value = Math.max(1, way > 0 ? up : down);
    this.wish = { value, at: performance.now() };
    this.story.click("at_once", value);
  }

  // As many as the server is found to work on; or, pressed again, as many as there are now.
  adapt() {
    const { head } = this.story;
    if (!enabled(this.auto) || !head?.at_once) return;
    this.wish = null;
    this.story.click("at_once", head.auto ? head.at_once : "auto");
  }

  paint(note) {
    const { head } = this.story;
    write(this.title, this.story.title);
    write(this.subtitle, oneLine(head?.subtitle));
    mark(this.title, "title", this.title.textContent);
    mark(this.subtitle, "title", this.subtitle.textContent);
    this.paintNote(note);
    this.paintControls(head);
    if (!head) return;
    this.paintBar(head);
    this.paintCounts(head);
    this.paintSpeeds(head);
    this.timeline.paint();
  }

  paintControls(head) {
    const can = (what) => this.view.can(what);
    const resumes = !can("pause") && (can("resume") || head?.state === "paused");
    mark(this.pause, "data-do", resumes ? "resume" : "pause");
    write(this.pause, resumes ? "Resume" : "Pause");
    enable(this.pause, can(resumes ? "resume" : "pause"));
    enable(this.cancel, can("cancel"));
    const settled = this.wish && (head?.at_once === this.wish.value || this.story.since(this.wish.at) > 5);
    if (settled && ![...this.story.clicks.values()].some((click) => click.what === "at_once")) this.wish = null;
    const value = this.wish?.value ?? head?.at_once;
    write(this.atOnce, value ? number(value) : "–");
    this.stepper.hidden = head?.at_once === null;
    enable(this.fewer, can("at_once") && value > 1);
    enable(this.more, can("at_once"));
    enable(this.auto, can("at_once"));
    mark(this.auto, "aria-pressed", String(Boolean(head?.auto) && !this.wish));
    for (const node of [this.pause, this.cancel, this.fewer, this.more, this.auto]) this.view.explain(node);
  }

  paintBar(head) {
    const open = head.total === null;
    const of = Math.max(1, head.total ?? (head.known || 1));
    const shares = { ...head, ok: head.ok - head.stored };
    const done = head.ok + head.failed + head.cancelled;
    for (const [part, node] of Object.entries(this.parts)) {
      const share = `${Math.min(100, (100 * shares[part]) / of).toFixed(3)}%`;
      if (node.style.width !== share) node.style.width = share;
      node.hidden = !shares[part];
    }
    mark(this.bar, "data-endless", open && !this.story.ended ? "" : null);
    mark(this.bar, "aria-valuemax", open ? null : of);
    mark(this.bar, "aria-valuenow", open ? null : done);
    mark(this.bar, "aria-valuetext", this.view.progress());
  }

  paintCounts(head) {
    const known = head.total ?? head.known;
    const limit = head.at_once && !this.story.ended ? ` of ${number(head.at_once)}` : "";
    write(this.countDone, number(head.ok + head.failed));
    write(this.countTotal, head.total === null ? ` so far` : ` of ${number(known)}`);
    write(this.countStored, head.stored ? `${number(head.stored)} from the store` : "");
    write(this.countFlying, number(head.flying));
    write(this.limit, limit);
    write(this.countFailed, number(head.failed));
    write(this.kinds, head.failures.map(([kind, n]) => `${oneLine(kind)} ×${number(n)}`).join(", "));
    for (const node of [this.why, this.bad]) mark(node, "title", this.kinds.textContent || null);
    mark(this.bad, "data-some", head.failed > 0 ? "" : null);
    this.store.hidden = !head.stored;
    const most = number(Math.max(head.at_once ?? 0, head.flying));
    mark(this.progress, "data-room", head.total === null ? "0,000,000 so far" : `${number(known)} of ${number(known)}`);
    mark(this.air, "data-room", limit ? `${most} of ${most} in flight` : `${most} in flight`);
    mark(this.bad, "data-room", `${number(Math.max(head.failed, 99))} failed`);
  }

  paintSpeeds(head) {
    const left = this.story.left();
    const states = { done: "done", paused: "paused", cancelled: "cancelled", stopped: "stopped", left: "left" };
    write(this.rate, head.rate === null ? "" : speed(head.rate));
    write(this.tokens, head.tokens === null ? "" : `${number(Math.round(head.tokens))} tok/s`);
    write(this.elapsed, clock(this.story.elapsed()));
    const unknown = head.total === null ? "" : "… left";
    const guess = left === null ? unknown : `${left < 9.95 ? seconds(left) : clock(left)} left`;
    write(this.left, states[head.state] ?? guess);
    mark(this.left, "data-state", left === null && head.state === "running" ? "unknown" : head.state);
  }

  paintNote(note) {
    this.note.hidden = !note;
    if (!note) return;
    mark(this.note, "data-kind", note.kind);
    this.noteText.forEach((node, i) => write(node, note.text[i] ?? ""));
    mark(this.note, "title", this.note.textContent);
  }
}

function announce(text) {
  const speech = make("div", "", { role: "status", "aria-live": "polite" });
  speech.style.cssText = "position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)";
  document.body.append(speech);
  setTimeout(() => write(speech, text), 100);
  setTimeout(() => speech.remove(), 6000);
}

// ---- one view

class View {
  constructor(story, el) {
    this.story = story;
    this.listing = new Listing(story);
    this.detail = new Detail(story, this);
    this.face = new Face(story, this);
    this.table = new Table(story, this.listing, this);
    this.tableHeight = 0;
    this.spoken = { at: 0, what: "" };
    this.speech = make("div", "ceylon-hidden", { role: "status", "aria-live": "polite" });
    const area = make("div", "ceylon-area", {}, this.table.grid, this.table.empty, this.table.fresh, this.detail.node);
    const parts = [this.face.node, this.makeTools(), area, this.speech];
    this.root = make("div", "ceylon-panel", {
      role: "region", tabindex: -1,
    }, ...parts);
    this.listen();
    el.append(this.root);
    story.views.add(this);
    this.ask();
  }

  makeTools() {
    const chip = (show, name) => {
      const node = button("ceylon-chip", `${name} `, { "data-show": show });
      node.append(make("span", "ceylon-count"));
      return node;
    };
    const shows = { all: "All", failed: "Failed", flying: "In flight", waiting: "Waiting" };
    this.chips = Object.entries(shows).map(([show, name]) => chip(show, name));
    this.find = make("input", "ceylon-find", {
      type: "search", placeholder: "find in rows", "aria-label": "Find in rows", spellcheck: "false",
      autocomplete: "off",
    });
    this.foundNote = make("span", "ceylon-found");
    this.order = button("ceylon-order", "newest first", { title: "The order of the rows" });
    this.retry = button("ceylon-button ceylon-retry", "Retry failed", { "data-do": "retry" });
    const chips = make("div", "ceylon-chips", { role: "group", "aria-label": "Show" }, ...this.chips);
    const find = make("span", "ceylon-finder", {}, this.find, this.foundNote);
    return make("div", "ceylon-tools", {}, chips, make("div", "ceylon-actions", {}, find, this.order, this.retry));
  }

  listen() {
    // No key typed here is the notebook's: `d d` would delete the cell. But saving is.
    const own = (event) => {
      if (event.type === "keydown") this.key(event);
      const saves = (event.ctrlKey || event.metaKey) && event.key?.toLowerCase() === "s";
      if (!saves) event.stopPropagation();
    };
    for (const type of ["keydown", "keyup", "keypress"]) this.root.addEventListener(type, own);
    for (const node of this.chips) node.addEventListener("click", () => this.choose({ show: node.dataset.show }));
    this.order.addEventListener("click", () => {
      this.choose({ order: this.listing.order === "newest" ? "input" : "newest" });
    });
    this.retry.addEventListener("click", () => this.act(this.retry));
    this.find.addEventListener("input", () => {
      clearTimeout(this.typing);
      this.typing = setTimeout(() => this.search(this.find.value.trim()), 250);
    });
    this.sizes = new ResizeObserver(() => this.measure());
    this.sizes.observe(this.table.grid);
    this.sight = new IntersectionObserver((entries) => {
      this.seen = entries.at(-1).isIntersecting;
      if (this.seen) this.measure();
    });
    this.sight.observe(this.root);
  }

  stop() {
    this.sizes.disconnect();
    this.sight.disconnect();
    clearTimeout(this.typing);
    clearTimeout(this.later);
    this.detail.close();
    cancelAnimationFrame(this.frame);
    this.story.views.delete(this);
    this.root.remove();
  }

  measure() {
    const { grid } = this.table;
    this.tableHeight = grid.clientHeight;
    grid.style.setProperty("--ceylon-gutter", `${Math.max(0, 10 - grid.offsetWidth + grid.clientWidth)}px`);
    this.ask();
  }

  // At most one paint a frame, none while nobody can see it.
  ask() {
    if (this.frame || this.seen === false) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.paint();
    });
  }

  askLater() {
    this.later ??= setTimeout(() => {
      this.later = null;
      this.ask();
    }, CALM / 2);
  }

  paint() {
    const { head } = this.story;
    mark(this.root, "aria-label", `${this.story.title || "Batch"}: progress and rows`);
    mark(this.root, "data-state", this.story.alive ? (head?.state ?? "unknown") : "disconnected");
    mark(this.root, "data-bare", head?.table === false ? "" : null);
    mark(this.root, "data-held", this.story.hold() ? "" : null);
    const few = head && head.total !== null ? Math.max(4, Math.min(6, head.total)) : 6;
    this.root.style.setProperty("--ceylon-few", few);
    const note = this.note();
    this.face.paint(note);
    this.paintTools(head);
    if (head?.table !== false) this.table.paint();
    this.speak(head, note);
  }

  paintTools(head) {
    const count = head && { ...head, all: head.total ?? head.known };
    const rooms = { failed: 99, flying: head?.at_once, waiting: head?.total };
    for (const node of this.chips) {
      const n = count?.[node.dataset.show] ?? 0;
      write(node.lastChild, number(n));
      mark(node.lastChild, "data-room", number(Math.max(n, rooms[node.dataset.show] ?? 0)));
      mark(node, "aria-pressed", this.listing.show === node.dataset.show);
      mark(node, "data-none", n ? null : "");
    }
    write(this.order, this.listing.order === "newest" ? "newest first" : "input order");
    enable(this.retry, this.can("retry"));
    this.explain(this.retry);
  }

  choose(how) {
    Object.assign(this.listing, how, { builtAt: 0 });
    this.table.scroll.to(0);
    this.table.jump = true;
    this.ask();
  }

  search(text) {
    if (text === (this.text ?? "")) return;
    this.text = text;
    this.listing.seek(text);
    write(this.foundNote, text ? "…" : "");
    const was = this.findId ?? null;
    this.findId = this.story.nextId++;
    this.story.send({ type: "find", text, id: this.findId, was });
    this.choose({});
  }

  hear(content, positions) {
    if (content.type !== "found") return this.detail.hear(content);
    if (content.id !== this.findId || !this.text) return;
    this.listing.find(positions);
    write(this.foundNote, `${number(this.listing.hits)} found${content.done ? "" : "…"}`);
  }

  second() { this.detail.second(); }

  open(position, following = false) {
    if (position === this.detail.position && !following) return this.close();
    this.table.active = position;
    this.detail.open(position, following ? 120 : 0); // who holds an arrow key down passes many
    mark(this.root, "data-open", "");
    if (!following) this.table.grid.focus({ preventScroll: true });
    this.ask();
  }

  close() {
    const inside = this.detail.node.contains(this.root.getRootNode().activeElement);
    if (inside) this.table.grid.focus({ preventScroll: true });
    this.detail.close();
    mark(this.root, "data-open", null);
    this.ask();
  }

  key(event) {
    if (event.key !== "Escape") return;
    if (this.detail.position !== null) this.close();
    else if (this.find.value) {
      this.find.value = "";
      this.search("");
    } else return;
    event.preventDefault();
  }

  act(node) { if (enabled(node)) this.story.click(node.dataset.do); }

  can(what) {
    const { alive, head } = this.story;
    return alive && Boolean(head) && !head.deaf && head.can.includes(what);
  }

  explain(node) {
    const why = !this.story.alive ? DISCONNECTED : this.story.head?.deaf ? DEAF : null;
    if (node.dataset.own === undefined) node.dataset.own = node.title;
    mark(node, "title", why ?? (node.dataset.own || null));
  }

  note() {
    const { alive, head, clicks, trouble, story = this.story } = this.story;
    const late = [...clicks.values()].some((click) => story.since(click.at) > 1.5);
    const hold = story.hold();
    if (!alive) return { kind: "off", text: [DISCONNECTED, "", head?.kept ? ON_DISK : ""] };
    if (!head) return { kind: "calm", text: ["Waiting for the kernel…"] };
    if (late) return { kind: "busy", text: [head.deaf ? DEAF : BUSY] };
    if (trouble) return { kind: "bad", text: [trouble.text] };
    if (hold) return { kind: "hold", text: ["Holding off ", `${hold.left} s`, `: ${hold.reason}. Nothing is lost.`] };
    if (head.deaf && !story.ended) return { kind: "busy", text: [DEAF] };
    if (head.note) return { kind: head.state === "stopped" ? "bad" : "calm", text: [oneLine(head.note)] };
    const found = oneLine(head.found ?? "");
    return found ? { kind: "calm", text: [`${found[0].toUpperCase()}${found.slice(1)}.`] } : null;
  }

  nothing() {
    if (!this.story.head) return "";
    if (this.text) return this.foundNote.textContent.endsWith("…") ? "Searching…" : "Nothing found.";
    const none = { failed: "No row has failed.", flying: "Nothing is in flight.", waiting: "No row waits." };
    return none[this.listing.show] ?? "Nothing is answered yet.";
  }

  progress() {
    const { head } = this.story;
    const left = this.story.left();
    const words = [`${number(head.ok + head.failed)}${head.total === null ? " done" : ` of ${number(head.total)}`}`];
    if (head.failed) words.push(`${number(head.failed)} failed`);
    if (head.state === "running" && left !== null) words.push(`about ${clock(left)} left`);
    return words.join(", ");
  }

  // Changes at once, progress at most every 15 s; by one of the views that can be seen.
  speak(head, note) {
    if (!head || this.story.parted) return;
    if ([...this.story.views].find((view) => view.seen !== false) !== this) return;
    const what = `${head.state} ${note?.kind}`;
    const changed = what !== this.spoken.what;
    if (!changed && (head.state !== "running" || performance.now() - this.spoken.at < 15000)) return;
    this.spoken = { what, at: performance.now() };
    const state = head.state[0].toUpperCase() + head.state.slice(1);
    if (changed && note) write(this.speech, note.text.join(""));
    else write(this.speech, changed ? `${state}: ${this.progress()}` : this.progress());
  }
}

// ---- saved summaries elsewhere in the page that become panels while the kernel lives

class Mounts {
  constructor(story, key) {
    Object.assign(this, { story, key, views: new Map() });
    this.observer = new MutationObserver((records) => {
      const ours = (record) => record.target.closest?.(".ceylon-panel");
      if (!this.later && !records.every(ours)) this.later = setTimeout(() => this.look(), 100);
    });
    this.observer.observe(document.body, { childList: true, subtree: true });
    this.look();
  }

  look() {
    this.later = null;
    if (!this.story.head) return; // a kernel that says nothing must not hide what is saved
    for (const place of this.views.keys()) if (!place.isConnected) this.leave(place);
    for (const place of document.querySelectorAll("[data-ceylon-panel]")) {
      if (place.dataset.ceylonPanel !== this.key || this.views.has(place)) continue;
      place.classList.add("ceylon-mounted");
      this.views.set(place, new View(this.story, place));
    }
  }

  leave(place) {
    this.views.get(place).stop();
    this.views.delete(place);
    place.classList.remove("ceylon-mounted");
  }

  stop() {
    this.observer.disconnect();
    clearTimeout(this.later);
    for (const place of [...this.views.keys()]) this.leave(place);
  }
}

export default () => {
  let story = null;
  return {
    initialize({ model }) {
      story = new Story(model);
      story.start();
      return () => story.stop();
    },
    render({ el }) {
      const view = new View(story, el);
      return () => view.stop();
    },
  };
};
