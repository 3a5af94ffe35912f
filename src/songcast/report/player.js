"use strict";
// The player of the listening report and of the page of `songcast serve`. One player per song: all
// its tracks play in sync, and all but one are muted. A switch between tracks therefore keeps the
// position. Tracks are scheduled in pieces, so a song can play while its end is still computed.
// wavesurfer.js draws the waveforms.

const SWITCH_SECONDS = 0.005; // fade at a switch; a step would click
const LEAD_SECONDS = 0.03; // all tracks start together after this delay
const PIECE_SECONDS = 1, AHEAD_SECONDS = 3, SCHEDULE_MS = 250; // pieces are scheduled that far ahead
const ink = getComputedStyle(document.documentElement).getPropertyValue("--ink").trim();
const LOOKS = {
  original: ["#8d949c", ink],
  pred_song: ["#7db8da", "#0072b2"],
  pred_song_updated: ["#ebab7f", "#c75000"],
  continuation: ["#7fcdb4", "#007a5a"],
  residual: ["#dba9c6", "#a34b80"],
};
const TOP_DB = 10, RANGE_DB = 90; // of a spectrogram; the same for all tracks

let sound = null; // the AudioContext, which browsers allow after a click only
let current = null; // the player that the keyboard controls
const players = [];

// The tracks of a song. `ready`: the number of frames that can be played so far.
class Tracks {
  constructor(sampleRate, frames, channels) {
    Object.assign(this, { sampleRate, frames, channels, ready: frames });
  }

  get seconds() { return this.frames / this.sampleRate; }
  get names() { return Object.keys(this.channels); }

  // The frames [start, stop) of a track, a Float32Array per channel.
  piece(name, start, stop) { return this.channels[name].map((samples) => samples.subarray(start, stop)); }

  // What wavesurfer draws: the samples, or a maximum per pixel.
  peaks(name) { return this.channels[name]; }
}

class Player {
  // `load` returns a promise of the song's Tracks.
  constructor(section, load) {
    players.push(this);
    this.section = section;
    this.load = load;
    this.find = (selector) => section.querySelector(selector);
    this.rows = [...section.querySelectorAll(".track")];
    this.chosen = this.rows[0].dataset.track;
    this.waves = {};
    this.pictures = {};
    this.sources = {};
    this.position = 0; // in seconds, while paused
    this.playing = false;
    this.waiting = false; // for samples that are not computed yet
    this.listeners = new AbortController();
    const on = (node, event, action) => node.addEventListener(event, action, { signal: this.listeners.signal });
    on(this.find(".play"), "click", () => this.toggle());
    on(this.find(".seek"), "input", (event) => this.seek(Number(event.target.value)));
    for (const row of this.rows) on(row.querySelector("input"), "change", () => this.choose(row.dataset.track));
  }

  async prepare() {
    if (this.prepared) return this.prepared;
    this.prepared = (async () => {
      this.tracks = await this.load();
      this.find(".seek").max = this.seconds;
      for (const row of this.rows) this.drawWave(row);
      this.find(".play").disabled = false;
      this.show();
      this.drawSpectrogram();
    })();
    return this.prepared;
  }

  // Forget the song: the section can get another player.
  remove() {
    this.stop();
    this.waiting = false;
    this.listeners.abort();
    for (const wave of Object.values(this.waves)) wave.destroy();
    players.splice(players.indexOf(this), 1);
    if (current === this) current = null;
  }

  get sampleRate() { return this.tracks.sampleRate; }
  get channels() { return this.tracks.channels; }
  get seconds() { return this.tracks.seconds; }

  drawWave(row) {
    const name = row.dataset.track;
    const [waveColor, progressColor] = LOOKS[name];
    const wave = WaveSurfer.create({
      container: row.querySelector(".wave"), height: 48, waveColor, progressColor,
      cursorColor: ink, peaks: this.tracks.peaks(name), duration: this.seconds,
      dragToSeek: true,
    });
    wave.on("interaction", (seconds) => {
      this.choose(name);
      this.seek(seconds);
    });
    this.waves[name] = wave;
  }

  // More samples are ready: draw them, and play on if the player waits for them.
  grown() {
    for (const [name, wave] of Object.entries(this.waves)) {
      wave.load("", this.tracks.peaks(name), this.seconds);
    }
    const { ready, frames, sampleRate } = this.tracks;
    const enough = ready === frames || ready >= (this.position + PIECE_SECONDS) * sampleRate;
    if (this.waiting && enough) this.start();
  }

  drawSpectrogram() {
    if (!this.find(".picture")) return;
    for (const [name, picture] of Object.entries(this.pictures)) picture.hidden = name !== this.chosen;
    this.find(".shown").textContent = this.chosen;
    if (this.pictures[this.chosen] || !this.waves[this.chosen]) return;
    const picture = document.createElement("div");
    this.find(".picture").append(picture);
    this.pictures[this.chosen] = picture;
    this.waves[this.chosen].registerPlugin(WaveSurfer.Spectrogram.create({
      container: picture, height: 160, labels: true, fftSamples: 1024, scale: "mel",
      frequencyMax: this.sampleRate / 2, gainDB: TOP_DB, rangeDB: RANGE_DB,
      labelsBackground: "transparent", splitChannels: false, colorMap: "roseus",
    }));
  }

  get currentTime() {
    if (!this.playing) return this.position;
    const played = Math.max(sound.currentTime - this.startedAt, 0);
    return (this.startedFrom + played) % this.seconds;
  }

  async toggle() {
    makeCurrent(this);
    await this.prepare();
    if (this.playing || this.waiting) this.stop();
    else await this.start();
  }

  async start() {
    if (sound && sound.sampleRate !== this.sampleRate) {
      for (const other of players) if (other.playing) other.stop();
      await sound.close();
      sound = null;
    }
    sound ??= new AudioContext({ sampleRate: this.sampleRate });
    await sound.resume();
    for (const other of players) if (other.playing || other.waiting) other.stop();
    // A whole frame, so that pieces follow each other without a gap.
    this.startedAt = Math.round((sound.currentTime + LEAD_SECONDS) * this.sampleRate) / this.sampleRate;
    this.startedFrom = this.position;
    this.next = { at: this.startedAt, frame: Math.round(this.position * this.sampleRate) };
    for (const name of this.tracks.names) {
      const volume = new GainNode(sound, { gain: name === this.chosen ? 1 : 0 });
      volume.connect(sound.destination);
      this.sources[name] = { volume, nodes: new Set() };
    }
    this.playing = true;
    this.schedule();
    this.timer = setInterval(() => this.schedule(), SCHEDULE_MS);
    this.show();
    this.follow();
  }

  // Schedule pieces of all tracks; at the end of the song it starts again.
  schedule() {
    const { frames, sampleRate } = this.tracks;
    while (this.next.at < sound.currentTime + AHEAD_SECONDS) {
      const start = this.next.frame;
      const stop = Math.min(start + PIECE_SECONDS * sampleRate, this.tracks.ready);
      if (stop <= start) break;
      for (const [name, { volume, nodes }] of Object.entries(this.sources)) {
        const buffer = toBuffer(this.tracks.piece(name, start, stop), sampleRate);
        const node = new AudioBufferSourceNode(sound, { buffer });
        node.connect(volume);
        node.start(this.next.at);
        node.onended = () => nodes.delete(node);
        nodes.add(node);
      }
      this.next = { at: this.next.at + (stop - start) / sampleRate, frame: stop % frames };
    }
    if (this.next.at <= sound.currentTime) {
      this.stop();
      this.position = this.next.frame / sampleRate;
      this.waiting = true;
      this.show();
    }
  }

  stop() {
    if (this.playing) this.position = this.currentTime;
    clearInterval(this.timer);
    for (const { volume, nodes } of Object.values(this.sources)) {
      for (const node of nodes) node.stop();
      volume.disconnect();
    }
    this.sources = {};
    this.playing = this.waiting = false;
    this.show();
  }

  choose(name) {
    const row = this.rows.find((row) => row.dataset.track === name);
    if (!row) return;
    makeCurrent(this);
    this.chosen = name;
    row.querySelector("input").checked = true;
    for (const other of this.rows) other.classList.toggle("chosen", other === row);
    for (const [track, { volume }] of Object.entries(this.sources)) {
      volume.gain.cancelScheduledValues(sound.currentTime);
      volume.gain.setValueAtTime(volume.gain.value, sound.currentTime);
      const target = track === name ? 1 : 0;
      volume.gain.linearRampToValueAtTime(target, sound.currentTime + SWITCH_SECONDS);
    }
    this.drawSpectrogram();
  }

  async seek(seconds) {
    makeCurrent(this);
    await this.prepare();
    const wasPlaying = this.playing || this.waiting;
    if (wasPlaying) this.stop();
    this.position = Math.min(Math.max(seconds, 0), this.seconds - 1 / this.sampleRate);
    if (wasPlaying) await this.start();
    this.show();
  }

  follow() {
    if (!this.playing) return;
    this.show();
    requestAnimationFrame(() => this.follow());
  }

  show() {
    if (!this.tracks) return;
    const now = this.currentTime, active = this.playing || this.waiting;
    const button = this.find(".play");
    button.textContent = this.waiting ? "… Waiting" : active ? "❚❚ Pause" : "▶ Play";
    button.setAttribute("aria-pressed", String(active));
    this.find(".seek").value = now;
    this.find("output").textContent = `${now.toFixed(2)} of ${this.seconds.toFixed(2)} s`;
    for (const wave of Object.values(this.waves)) wave.setTime(now);
  }
}

function toBuffer(channels, sampleRate) {
  const buffer = new AudioBuffer({
    numberOfChannels: channels.length, length: channels[0].length, sampleRate,
  });
  channels.forEach((samples, c) => buffer.copyToChannel(samples, c));
  return buffer;
}

function makeCurrent(player) {
  current = player;
  for (const other of players) other.section.classList.toggle("current", other === player);
}

// Until a player is used, the keyboard controls the first song in view.
function inView() {
  const middle = window.innerHeight * 0.6;
  return players.find((player) => player.section.getBoundingClientRect().bottom > middle) ?? players[0];
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || !players.length) return;
  const player = current ?? inView();
  const row = player.rows.find((row) => row.dataset.key === event.key);
  const arrows = { ArrowLeft: -0.5, ArrowRight: 0.5 };
  if (row) player.choose(row.dataset.track);
  // The browser handles space on buttons, links and summaries, and arrows on sliders and radios.
  else if (event.key === " " && !event.target.closest("button, a, summary")) player.toggle();
  else if (event.key in arrows && !event.target.closest("input")) player.seek(player.currentTime + arrows[event.key]);
  else return;
  event.preventDefault();
}

document.addEventListener("keydown", onKey);
