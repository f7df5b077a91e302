// The page of the speech server: sends a text, plays the audio while it is made, follows it in the text.

const MODEL = "tacotron2-waveglow";
const SAMPLE_RATE = 24000; // Hz, of the "pcm" format
const SPEEDS = [
  0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1,
  1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.4, 1.5, 1.75, 2, 2.5, 3, 4,
];
const STORED = "tacotron2-waveglow.history";
const STORED_KEY = "tacotron2-waveglow.key";
const MAX_ENTRIES = 20;

const element = (id) => document.getElementById(id);
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

// ---- The server

class ServerError extends Error {
  /** `status` is 0 for an error in the middle of a stream; `retryAfter` is in seconds. */
  constructor(message, { status = 0, param = null, retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { status, param, retryAfter });
  }
}

/** Send a request; throw a ServerError with the server's own words if it is refused. */
async function request(path, key, options = {}) {
  const headers = { ...options.headers };
  if (key) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server cannot be reached. Check the connection and that the server runs.");
  }
  if (response.ok) return response;
  const { status, statusText } = response;
  const body = await response.json().catch(() => null); // a proxy may answer with a page of its own
  const retry = Number.parseFloat(response.headers.get("Retry-After"));
  throw new ServerError(body?.error?.message || `The server answered ${status} ${statusText}`.trim(), {
    status,
    param: body?.error?.param,
    retryAfter: Number.isFinite(retry) ? Math.ceil(retry) : null,
  });
}

/** POST a body to /v1/audio/speech. */
function requestSpeech(body, key, signal) {
  const headers = { "Content-Type": "application/json" };
  return request("v1/audio/speech", key, { method: "POST", headers, body: JSON.stringify(body), signal });
}

/** Wait for a part of an answer. One that breaks off is a TypeError, with a message of each browser's own. */
async function arrival(promise) {
  try {
    return await promise;
  } catch (error) {
    throw error.name === "AbortError" ? error : new ServerError("The connection to the server was lost.");
  }
}

/** Yield the objects of a stream of server-sent events. */
async function* serverSentEvents(response) {
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await arrival(reader.read());
    if (done) return;
    const blocks = (rest + decoder.decode(value, { stream: true }).replaceAll("\r", "")).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n").filter((line) => line.startsWith("data:"));
      if (lines.length) yield JSON.parse(lines.map((line) => line.slice(5)).join("\n"));
    }
  }
}

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

// ---- Playback

/** Plays 16-bit samples as they arrive, each buffer exactly where the last one ends, and knows what is heard now. */
class Player {
  static AHEAD = 5; // seconds of audio given to the browser; the rest waits as 16-bit samples, half as large

  // At another rate each buffer would be resampled alone, which is heard at the seams.
  static context() {
    return new AudioContext({ sampleRate: SAMPLE_RATE, latencyHint: "playback" });
  }

  /** Must be called in the handler of a click or key: browsers allow sound only then. */
  constructor(context = Player.context()) {
    this.context = context;
    this.context.resume().catch(() => {}); // rejected when closed before the sound device is ready
    this.gain = this.context.createGain();
    this.gain.connect(this.context.destination);
    this.waiting = []; // Int16Array
    this.received = this.given = 0; // samples from the server, samples given to the browser
    this.next = 0; // time of the context, in seconds, at which the next sample is due
    this.anchors = []; // [time of the context, seconds of audio] where playback begins, or continues after a wait
    this.cushion = 0.1; // seconds of audio to wait for before that; grows if the server is slower than speech
    this.oddByte = null;
    this.ended = this.closed = false;
  }

  get seconds() {
    return this.received / SAMPLE_RATE;
  }

  /** The samples of `bytes`, little-endian. Events may split a sample, so a last odd byte is kept for the next. */
  push(bytes) {
    const length = bytes.length + (this.oddByte === null ? 0 : 1);
    const joined = new Uint8Array(length);
    joined.set(bytes, length - bytes.length);
    if (this.oddByte !== null) joined[0] = this.oddByte;
    this.oddByte = length % 2 ? joined[length - 1] : null;
    const view = new DataView(joined.buffer);
    const samples = Int16Array.from({ length: length >> 1 }, (_, i) => view.getInt16(2 * i, true));
    if (!samples.length) return;
    this.waiting.push(samples);
    this.received += samples.length;
    this.pump();
  }

  /** No more will be pushed. */
  end() {
    this.ended = true;
    this.pump();
  }

  /** Give what is due soon to the browser. To be called often. */
  pump() {
    if (this.closed) return;
    const now = this.context.currentTime;
    if (this.next <= now) {
      const ready = (this.received - this.given) / SAMPLE_RATE;
      if (!ready || (ready < this.cushion && !this.ended)) return;
      if (this.anchors.length) this.cushion = Math.min(2 * this.cushion, 4);
      this.next = Math.ceil((now + 0.05) * SAMPLE_RATE) / SAMPLE_RATE;
      this.anchors.push([this.next, this.given / SAMPLE_RATE]);
    }
    while (this.waiting.length && this.next < now + Player.AHEAD) this.give(this.waiting.shift());
  }

  give(samples) {
    const buffer = this.context.createBuffer(1, samples.length, SAMPLE_RATE);
    buffer.copyToChannel(Float32Array.from(samples, (sample) => sample / 32768), 0);
    const source = new AudioBufferSourceNode(this.context, { buffer });
    source.connect(this.gain);
    source.start(this.next);
    this.given += samples.length;
    const [time, seconds] = this.anchors.at(-1);
    this.next = time + this.given / SAMPLE_RATE - seconds; // not a sum of many durations, which would drift
  }

  /** Seconds of audio that have been heard. */
  position() {
    const now = this.context.currentTime - (this.context.outputLatency || 0);
    while (this.anchors.length > 1 && this.anchors[1][0] <= now) this.anchors.shift();
    if (!this.anchors.length) return 0;
    const [time, seconds] = this.anchors[0];
    const limit = this.anchors.length > 1 ? this.anchors[1][1] : this.given / SAMPLE_RATE;
    return clamp(seconds + now - time, 0, limit);
  }

  get finished() {
    return this.ended && !this.waiting.length && this.position() >= this.given / SAMPLE_RATE - 1e-6;
  }

  /** Fall silent, without a click. */
  close() {
    if (this.closed) return;
    this.closed = true;
    this.waiting = [];
    this.gain.gain.setTargetAtTime(0, this.context.currentTime, 0.01);
    setTimeout(() => this.context.close(), 80);
  }
}

// ---- Pictures

/** Colours from low to high, on light and on dark. */
const COLOURS = {
  light: ["#f4f2ec", "#d3e4dd", "#8fc1bd", "#3d8f9a", "#175a72", "#0c2740"],
  dark: ["#12161b", "#14303f", "#19606d", "#4aa58f", "#c3cf87", "#fff7d6"],
};

/** Return 256 colours as the 32-bit words of an ImageData (its bytes are red, green, blue, alpha). */
function palette(stops) {
  const channels = stops.map((stop) => [1, 3, 5].map((i) => Number.parseInt(stop.slice(i, i + 2), 16)));
  const bytes = new Uint8ClampedArray(4 * 256);
  for (let i = 0; i < 256; i++) {
    const place = (i / 255) * (stops.length - 1);
    const low = Math.min(Math.floor(place), stops.length - 2);
    const [from, to] = [channels[low], channels[low + 1]];
    for (let c = 0; c < 3; c++) bytes[4 * i + c] = from[c] + (place - low) * (to[c] - from[c]);
    bytes[4 * i + 3] = 255;
  }
  return new Uint32Array(bytes.buffer);
}

/** A picture over time in fixed memory: when it is full, every two columns become one. */
class Picture {
  static COLUMNS = 2048;

  /** `mean`: a column is the mean of its frames, else their maximum, which keeps a thin line. */
  constructor(canvas, name, rows, mean) {
    Object.assign(this, { canvas, name, rows, mean, playhead: canvas.nextElementSibling, pending: false });
    this.image = document.createElement("canvas");
    this.image.height = rows;
    this.scheme = matchMedia("(prefers-color-scheme: dark)");
    this.clear();
    new ResizeObserver(() => this.draw()).observe(canvas);
    this.scheme.addEventListener("change", () => {
      this.stale = true;
      this.draw();
    });
  }

  clear() {
    this.columns = new Float32Array(Picture.COLUMNS * this.rows); // sums or maxima; column after column, low row first
    this.weights = new Float32Array(Picture.COLUMNS); // frames in each column
    this.used = this.columnSeconds = this.seconds = 0;
    this.stale = true; // the image has not the values yet
    this.draw();
  }

  /** Add `frames` x `height` values, frame after frame, that begin at `start` seconds. */
  add(start, frames, height, secondsPerFrame, values) {
    if (!frames || !height) return;
    this.columnSeconds ||= secondsPerFrame;
    while ((start + frames * secondsPerFrame) / this.columnSeconds > Picture.COLUMNS) this.halve();
    const rows = Array.from({ length: this.rows }, (_, row) => {
      const first = Math.floor((row * height) / this.rows);
      return [first, Math.max(first + 1, Math.floor(((row + 1) * height) / this.rows))];
    });
    const column = (frame) => Math.floor((start + frame * secondsPerFrame) / this.columnSeconds + 1e-6);
    for (let frame = 0; frame < frames; frame++) {
      const first = column(frame);
      const last = Math.min(Math.max(column(frame + 1), first + 1), Picture.COLUMNS);
      for (let row = 0; row < this.rows; row++) {
        let value = 0;
        for (let i = rows[row][0]; i < rows[row][1]; i++) value = Math.max(value, values[frame * height + i]);
        for (let c = first; c < last; c++) {
          const at = c * this.rows + row;
          this.columns[at] = this.join(this.columns[at], value);
        }
      }
      for (let c = first; c < last; c++) this.weights[c] += 1;
      this.used = Math.max(this.used, last);
    }
    this.stale = true;
    this.seconds = Math.max(this.seconds, start + frames * secondsPerFrame);
    this.draw();
  }

  /** Let the time axis reach `seconds`. */
  extend(seconds) {
    if (seconds <= this.seconds) return;
    this.seconds = seconds;
    this.draw();
  }

  join(a, b) {
    return this.mean ? a + b : Math.max(a, b);
  }

  /** Return a value from 0 to 255. */
  value(column, row) {
    return this.columns[column * this.rows + row] / (this.mean ? Math.max(this.weights[column], 1) : 1);
  }

  halve() {
    const half = Picture.COLUMNS / 2;
    for (let c = 0; c < half; c++) {
      for (let row = 0; row < this.rows; row++) {
        const at = 2 * c * this.rows + row;
        this.columns[c * this.rows + row] = this.join(this.columns[at], this.columns[at + this.rows]);
      }
      this.weights[c] = this.weights[2 * c] + this.weights[2 * c + 1];
    }
    this.columns.fill(0, half * this.rows);
    this.weights.fill(0, half);
    this.used = Math.ceil(this.used / 2);
    this.columnSeconds *= 2;
  }

  /** The length of the time axis in seconds; a short beginning does not fill the whole width. */
  get width() {
    return Math.max(this.seconds, 2);
  }

  draw() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      this.paint();
    });
  }

  paint() {
    const { canvas, used } = this;
    canvas.width = Math.round(canvas.clientWidth * devicePixelRatio); // this also clears it
    canvas.height = Math.round(canvas.clientHeight * devicePixelRatio);
    canvas.setAttribute("aria-label", `${this.name}, ${used ? `${this.seconds.toFixed(1)} seconds` : "empty"}`);
    if (!used || !canvas.width || !canvas.height) return;
    if (this.stale) this.render();
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(this.image, 0, 0, (canvas.width * used * this.columnSeconds) / this.width, canvas.height);
  }

  /** Put the values into the image, a pixel for each. */
  render() {
    const { rows, used } = this;
    const colours = palette(COLOURS[this.scheme.matches ? "dark" : "light"]);
    const pixels = new Uint32Array(used * rows);
    for (let c = 0; c < used; c++) {
      for (let row = 0; row < rows; row++) pixels[(rows - 1 - row) * used + c] = colours[Math.round(this.value(c, row))];
    }
    this.image.width = used;
    const data = new ImageData(new Uint8ClampedArray(pixels.buffer), used, rows);
    this.image.getContext("2d").putImageData(data, 0, 0);
    this.stale = false;
  }

  /** Move the line that shows what is heard. */
  follow(seconds) {
    this.playhead.style.transform = `translateX(${(this.canvas.clientWidth * seconds) / this.width}px)`;
  }
}

// ---- The text as it is spoken

class Reading {
  constructor(box) {
    this.box = box;
    this.calm = matchMedia("(prefers-reduced-motion: reduce)");
    this.handsOff = 0; // the reader scrolled: do not move the text before this time
    for (const type of ["wheel", "touchmove", "keydown", "pointerdown"]) {
      box.addEventListener(type, () => (this.handsOff = performance.now() + 4000), { passive: true });
    }
    this.show("");
  }

  show(text) {
    this.text = text;
    this.words = []; // {start in seconds, node, gap: the node of what stands before it}
    this.now = -1; // index of the word that is heard
    this.points = this.units = 0; // the same place in Unicode code points and in UTF-16 units
    this.done = 0; // UTF-16 units that have their nodes
    this.tail = this.part(text);
    this.box.replaceChildren(...(text ? [this.tail] : []));
    this.box.scrollTop = 0;
  }

  part(text) {
    const node = document.createElement("span");
    node.textContent = text;
    return node;
  }

  /** Return the UTF-16 index of a code point: the server counts characters as Python does. */
  index(point) {
    if (point < this.points) this.points = this.units = 0;
    for (; this.points < point && this.units < this.text.length; this.points++) {
      this.units += this.text.codePointAt(this.units) > 0xffff ? 2 : 1;
    }
    return this.units;
  }

  /** Give words nodes of their own. Several words may be read from one place, as from "$5". */
  add(words) {
    const fragment = document.createDocumentFragment();
    for (const { start, span } of words) {
      let { node, gap } = this.words.at(-1) ?? {};
      const [from, to] = span ? [this.index(span[0]), this.index(span[1])] : [0, 0];
      if (to > this.done) {
        const begin = Math.max(from, this.done);
        gap = this.part(this.text.slice(this.done, begin));
        node = this.part(this.text.slice(begin, to));
        fragment.append(gap, node);
        this.done = to;
      }
      if (node) this.words.push({ start, node, gap });
    }
    this.tail.textContent = this.text.slice(this.done);
    this.tail.before(fragment);
  }

  /** Mark the word at `seconds`. */
  follow(seconds) {
    const before = this.now;
    while (this.now + 1 < this.words.length && this.words[this.now + 1].start <= seconds) {
      this.now += 1;
      this.words[this.now].gap.className = this.words[this.now].node.className = "said";
    }
    if (this.now === before) return;
    this.words[before]?.node.classList.remove("now");
    const { node } = this.words[this.now];
    node.className = "now said";
    this.scrollTo(node);
  }

  scrollTo(node) {
    const { clientHeight, scrollTop } = this.box;
    const below = node.offsetTop + node.offsetHeight > scrollTop + 0.75 * clientHeight;
    if ((!below && node.offsetTop >= scrollTop) || performance.now() < this.handsOff) return;
    this.box.scrollTo({ top: node.offsetTop - 0.25 * clientHeight, behavior: this.calm.matches ? "auto" : "smooth" });
  }

  /** Unmark the word: nothing is heard. `whole` if all has been. */
  rest(whole) {
    this.words[this.now]?.node.classList.remove("now");
    if (whole) this.tail.className = "said";
  }
}

// ---- What the browser keeps

/** Storage of the browser that may be switched off or full; then values live as long as the page. */
class Store {
  constructor(name, key) {
    Object.assign(this, { name, key, value: null });
  }

  read() {
    try {
      return window[this.name].getItem(this.key) ?? this.value;
    } catch {
      return this.value;
    }
  }

  /** Return whether the browser keeps it. */
  write(value) {
    this.value = value;
    try {
      if (value === null) window[this.name].removeItem(this.key);
      else window[this.name].setItem(this.key, value);
      return true;
    } catch {
      return false;
    }
  }
}

class PastTexts {
  constructor(section, list, restore) {
    Object.assign(this, { section, list, restore, store: new Store("localStorage", STORED) });
    this.show();
  }

  /** The entries, last first. What another version or a person wrote there is left out. */
  entries() {
    try {
      const found = JSON.parse(this.store.read());
      return Array.isArray(found) ? found.filter((entry) => typeof entry?.text === "string") : [];
    } catch {
      return [];
    }
  }

  add(entry) {
    const same = (other) => ["text", "voice", "speed", "ssml"].every((name) => other[name] === entry[name]);
    const entries = [entry, ...this.entries().filter((other) => !same(other))].slice(0, MAX_ENTRIES);
    for (let kept = entries.length; kept > 0; kept--) { // without space for all, the oldest go
      if (this.store.write(JSON.stringify(entries.slice(0, kept)))) break;
    }
    this.show();
  }

  clear() {
    this.store.write(null);
    this.show();
  }

  show() {
    const entries = this.entries();
    this.section.hidden = !entries.length;
    this.list.replaceChildren(...entries.map((entry) => this.item(entry)));
  }

  item(entry) {
    const [text, note] = [document.createElement("span"), document.createElement("span")];
    text.textContent = entry.text.slice(0, 300);
    note.textContent = [entry.voice, `${entry.speed}×`, entry.ssml ? "SSML" : ""].filter(Boolean).join(" · ");
    note.className = "small";
    const button = document.createElement("button");
    button.type = "button";
    button.append(text, note);
    button.addEventListener("click", () => this.restore(entry));
    const item = document.createElement("li");
    item.append(button);
    return item;
  }
}

// ---- The page

/** The text and how to speak it. */
class Form {
  constructor() {
    for (const name of ["text", "ssml", "voice", "speed", "format"]) this[name] = element(name);
    Object.assign(this.speed, { min: 0, max: SPEEDS.length - 1, step: 1 });
    this.setSpeed(1);
    this.count();
    this.text.addEventListener("input", () => this.count());
    this.speed.addEventListener("input", () => this.setSpeed(SPEEDS[this.speed.value]));
  }

  count() {
    let points = 0;
    for (const _ of this.text.value) points += 1;
    element("count").textContent = `${points.toLocaleString("en")} ${points === 1 ? "character" : "characters"}`;
    this.text.removeAttribute("aria-invalid");
  }

  setSpeed(speed) {
    const distance = (i) => Math.abs(SPEEDS[i] - speed);
    const nearest = SPEEDS.reduce((best, _, i) => (distance(i) < distance(best) ? i : best), 0);
    this.speed.value = nearest;
    this.speed.setAttribute("aria-valuetext", `${SPEEDS[nearest]} times`);
    element("speed-value").textContent = `${SPEEDS[nearest]}×`;
  }

  setVoices(voices) {
    const chosen = this.voice.value;
    this.voice.replaceChildren(...voices.map(({ id, name }) => new Option(name || id, id)));
    this.setVoice(chosen);
  }

  /** Choose a voice; return whether there is one of this name. */
  setVoice(id) {
    const known = [...this.voice.options].some((option) => option.value === id);
    if (known) this.voice.value = id;
    return known;
  }

  /** The part of a request that speech and download share. */
  request() {
    return {
      model: MODEL,
      input: this.text.value,
      voice: this.voice.value,
      speed: SPEEDS[this.speed.value],
      input_type: this.ssml.checked ? "ssml" : "text",
    };
  }

  /** Mark the field that an error is about (`param` of the server), or none. */
  markInvalid(param) {
    const fields = { input: this.text, voice: this.voice, speed: this.speed, response_format: this.format };
    for (const field of Object.values(fields)) field.removeAttribute("aria-invalid");
    fields[param]?.setAttribute("aria-invalid", "true");
  }

  restore({ text, speed, ssml }) {
    this.text.value = text;
    this.ssml.checked = Boolean(ssml);
    this.setSpeed(Number(speed) || 1);
    this.count();
    this.text.focus();
  }
}

/** The field for the server's key, which is seen only when the server asks for one. */
class Key {
  constructor(form, field, warn) {
    Object.assign(this, { form, field, store: new Store("sessionStorage", STORED_KEY), retry: null });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const key = field.value.trim();
      if (/^[\x21-\x7e]+$/.test(key)) this.use(key);
      else warn("A key is one word of letters, digits and signs, without accents.");
    });
  }

  get value() {
    return this.store.read();
  }

  /** Ask for a key, and call `retry` when there is one. */
  ask(retry) {
    this.retry = retry;
    this.form.hidden = false;
    this.field.focus();
  }

  use(key) {
    this.store.write(key);
    this.field.value = "";
    this.form.hidden = true;
    element("text").focus();
    this.retry();
  }
}

class Page {
  constructor() {
    for (const name of ["status", "time", "error"]) this[name] = element(name);
    this.form = new Form();
    this.key = new Key(element("key-form"), element("key"), (message) => this.showError(message));
    this.reading = new Reading(element("reading"));
    this.mel = new Picture(element("mel"), "Mel spectrogram", 80, true);
    this.alignment = new Picture(element("alignment"), "Alignment", 96, false);
    this.past = new PastTexts(element("history"), element("entries"), (entry) => this.restore(entry));
    this.run = null; // the speech that is made or heard: {player, abort, complete, secondsPerFrame}
    this.saving = null; // AbortController of a download
    this.setState("idle", "");
    this.listen();
    this.loadVoices().catch((error) => this.fail(error, () => this.reload()));
  }

  listen() {
    const actions = { speak: this.speak, stop: this.stop, download: this.download, clear: this.clearPast };
    for (const [id, action] of Object.entries(actions)) element(id).addEventListener("click", () => action.call(this));
    addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        if (!event.repeat) this.speak();
      } else if (event.key === "Escape") this.stop();
    });
    addEventListener("pagehide", () => this.stop());
    if (/Mac|iPhone|iPad/.test(navigator.platform)) element("keys").querySelector("kbd").textContent = "⌘";
    setInterval(() => this.tick(), 100); // not by frames: audio goes on when the page is not seen
    const frame = () => {
      if (this.run?.player.received) this.follow();
      requestAnimationFrame(frame);
    };
    frame();
  }

  setState(state, status) {
    document.body.dataset.state = state; // idle, waiting, speaking, done or stopped
    this.say(status);
  }

  say(status) {
    this.status.textContent = status;
    element("stop").setAttribute("aria-disabled", String(!this.run && !this.saving));
  }

  /** Show an error; `retry` is what to do again if only the key was missing. */
  fail(error, retry) {
    if (error.name === "AbortError") return;
    const known = error instanceof ServerError;
    if (!known) console.error(error);
    if (error.status === 401) {
      if (this.key.value) this.showError(error.message); // a first visit is no mistake
      return this.key.ask(retry);
    }
    const wait = error.retryAfter === null ? "Try again soon." : `Try again in ${error.retryAfter} s.`;
    const message = known ? error.message : `The server's answer is not understood: ${error.message}`;
    this.showError(error.status === 429 ? `${message} ${wait}` : message);
    this.form.markInvalid(error.param);
  }

  showError(message) {
    this.error.textContent = message;
    this.error.scrollIntoView({ block: "nearest" });
  }

  clearError() {
    this.error.textContent = "";
    this.form.markInvalid(null);
  }

  async loadVoices() {
    const { voices } = await (await request("v1/audio/voices", this.key.value)).json();
    this.form.setVoices(voices);
  }

  reload() {
    this.clearError();
    this.loadVoices().catch((error) => this.fail(error, () => this.reload()));
  }

  /** Return whether there is a text; if not, say so. */
  hasText() {
    this.clearError();
    if (this.form.text.value.trim()) return true;
    this.fail(new ServerError("There is no text yet. Type or paste one.", { param: "input" }));
    this.form.text.focus();
    return false;
  }

  /** POST what the form says, with `options`. */
  async post(settings, options, signal) {
    if (!settings.voice) {
      await this.loadVoices();
      settings.voice = this.form.voice.value;
    }
    return requestSpeech({ ...settings, ...options }, this.key.value, signal);
  }

  // -- Speech

  async speak() {
    if (!this.hasText()) return;
    this.stop();
    const player = createPlayer((error) => this.fail(error));
    if (!player) return;
    const run = { player, abort: new AbortController(), complete: false, secondsPerFrame: 256 / 22050 };
    const settings = this.form.request();
    this.run = run;
    this.setState("waiting", "waiting for the first audio");
    this.show(settings);
    try {
      const options = { response_format: "pcm", stream_format: "sse", include: ["words", "mel", "alignment"] };
      const response = await this.post(settings, options, run.abort.signal);
      for await (const event of serverSentEvents(response)) this.receive(run, event);
      if (!run.complete) throw new ServerError("The connection ended before the speech was complete.");
    } catch (error) {
      if (run !== this.run) return;
      run.abort.abort();
      if (!player.received) this.finish(run, "idle", "");
      this.fail(error, () => this.speak());
    }
    player.end();
  }

  show({ input, voice, speed, input_type }) {
    this.time.textContent = "";
    this.reading.show(input);
    this.reading.box.scrollIntoView({ block: "nearest" }); // on a phone it is below the form
    this.mel.clear();
    this.alignment.clear();
    this.past.add({ text: input, voice, speed, ssml: input_type === "ssml" });
  }

  receive(run, event) {
    if (run !== this.run) return;
    const { start, frames } = event;
    switch (event.type) {
      case "speech.audio.delta":
        run.player.push(bytesOf(event.audio));
        return this.tick();
      case "speech.audio.words":
        return this.reading.add(event.words);
      case "speech.audio.mel":
        run.secondsPerFrame = event.seconds_per_frame;
        return this.mel.add(start, frames, event.bins, run.secondsPerFrame, bytesOf(event.data));
      case "speech.audio.alignment": {
        const secondsPerFrame = event.seconds_per_frame ?? run.secondsPerFrame;
        return this.alignment.add(start, frames, event.symbols, secondsPerFrame, bytesOf(event.data));
      }
      case "speech.audio.done":
        return (run.complete = true);
      case "error":
        throw new ServerError(event.error.message, { param: event.error.param });
    }
  }

  /** Keep the audio flowing; notice its beginning and end. */
  tick() {
    const { run } = this;
    if (!run) return;
    const { player } = run;
    player.pump();
    if (player.anchors.length && document.body.dataset.state === "waiting") this.setState("speaking", "speaking");
    if (!player.finished) return;
    this.follow();
    this.finish(run, "done", `${run.complete ? "done" : "ended early"}, ${player.seconds.toFixed(1)} s`);
  }

  /** Move all that follows the audio. */
  follow() {
    const { player } = this.run;
    const position = player.position();
    if (player.anchors.length) this.reading.follow(position);
    for (const picture of [this.mel, this.alignment]) {
      picture.extend(player.seconds); // one time axis for both
      picture.follow(position);
    }
    const time = `${clock(position)} / ${clock(player.seconds)}`;
    if (this.time.textContent !== time) this.time.textContent = time;
  }

  finish(run, state, status) {
    run.abort.abort();
    run.player.close();
    this.run = null;
    this.reading.rest(state === "done" && run.complete);
    this.setState(state, status);
  }

  /** Stop speech and download. */
  stop() {
    this.saving?.abort();
    if (this.run) this.finish(this.run, "stopped", "stopped");
  }

  // -- Download and history

  async download() {
    if (!this.hasText()) return;
    this.saving?.abort();
    const saving = new AbortController();
    this.saving = saving;
    this.say("making the file");
    const settings = this.form.request();
    const format = this.form.format.value;
    const name = fileName(settings, format);
    let status = "";
    try {
      const options = { response_format: format, stream_format: "audio" };
      const response = await this.post(settings, options, saving.signal);
      save(await arrival(response.blob()), name);
      status = `saved ${name}`;
    } catch (error) {
      if (saving.signal.aborted) status = "stopped";
      else this.fail(error, () => this.download());
    }
    if (this.saving !== saving) return;
    this.saving = null;
    this.say(status);
  }

  restore(entry) {
    this.form.restore(entry);
    if (entry.voice && !this.form.setVoice(entry.voice)) this.say(`this server has no voice ${entry.voice}`);
    scrollTo({ top: 0 });
  }

  clearPast() {
    this.past.clear();
    this.say("history cleared");
    this.form.text.focus();
  }
}

/** Return a Player, or null after `fail` if the browser has none. */
function createPlayer(fail) {
  try {
    return new Player();
  } catch (error) {
    fail(new ServerError(`This browser cannot play the audio (${error.message}). Download works without.`));
    return null;
  }
}

/** Return a file name from the first words of a text. */
function fileName({ input, input_type }, format) {
  const text = input_type === "ssml" ? input.replace(/<[^>]*>/g, " ") : input;
  const words = text.slice(0, 2000).match(/[\p{L}\p{N}\p{M}]+/gu) ?? [];
  const name = [...words.slice(0, 6).join("-").toLowerCase()].slice(0, 48).join("");
  return `${name || "speech"}.${format}`;
}

function clock(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000); // some browsers read it only after a question
}

new Page();

export { Picture, Player }; // for tests
