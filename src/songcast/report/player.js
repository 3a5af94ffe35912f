"use strict";
// One player per song: all its tracks play in sync, and all but one are muted. A switch between
// tracks therefore keeps the position. wavesurfer.js draws the waveforms.

const SWITCH_SECONDS = 0.005; // fade at a switch; a step would click
const LEAD_SECONDS = 0.03; // all tracks start together after this delay
const LOOKS = {
  original: ["#8d949c", "#1d2126"],
  pred_song: ["#7db8da", "#0072b2"],
  pred_song_updated: ["#ebab7f", "#c75000"],
  continuation: ["#7fcdb4", "#007a5a"],
  residual: ["#dba9c6", "#a34b80"],
};
const TOP_DB = 10, RANGE_DB = 90; // of a spectrogram; the same for all tracks

let sound = null; // the AudioContext, which browsers allow after a click only
let current = null; // the player that the keyboard controls

async function decode(base64, sampleRate) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  // Decoded at the sample rate of the song, so the samples are those of the WAV file.
  const buffer = await new OfflineAudioContext(1, 1, sampleRate).decodeAudioData(bytes.buffer);
  return Array.from({ length: buffer.numberOfChannels }, (_, c) => buffer.getChannelData(c));
}

async function channelsOf(song) {
  const names = Object.keys(song.tracks);
  const decoded = await Promise.all(names.map((name) => decode(song.tracks[name], song.sampleRate)));
  const channels = Object.fromEntries(names.map((name, i) => [name, decoded[i]]));
  if (song.residualOf) {
    const factor = 10 ** (song.amplifiedDb / 20);
    channels.residual = channels.original.map(
      (x, c) => x.map((value, i) => (value - channels[song.residualOf][c][i]) * factor));
  }
  return channels;
}

class Player {
  constructor(section) {
    this.section = section;
    this.find = (selector) => section.querySelector(selector);
    this.rows = [...section.querySelectorAll(".track")];
    this.chosen = this.rows[0].dataset.track;
    this.waves = {};
    this.pictures = {};
    this.sources = {};
    this.position = 0; // in seconds, while paused
    this.playing = false;
    this.find(".play").addEventListener("click", () => this.toggle());
    this.find(".seek").addEventListener("input", (event) => this.seek(Number(event.target.value)));
    for (const row of this.rows) {
      row.querySelector("input").addEventListener("change", () => this.choose(row.dataset.track));
    }
  }

  async prepare() {
    if (this.prepared) return this.prepared;
    this.prepared = (async () => {
      const song = JSON.parse(document.getElementById(`data-${this.section.id}`).textContent);
      this.sampleRate = song.sampleRate;
      this.channels = await channelsOf(song);
      this.seconds = this.channels.original[0].length / song.sampleRate;
      this.find(".seek").max = this.seconds;
      for (const row of this.rows) this.drawWave(row);
      this.find(".play").disabled = false;
      this.show();
      this.drawSpectrogram();
    })();
    return this.prepared;
  }

  drawWave(row) {
    const name = row.dataset.track;
    const [waveColor, progressColor] = LOOKS[name];
    const wave = WaveSurfer.create({
      container: row.querySelector(".wave"), height: 48, waveColor, progressColor,
      cursorColor: "#1d2126", peaks: this.channels[name], duration: this.seconds,
      dragToSeek: true,
    });
    wave.on("interaction", (seconds) => {
      this.choose(name);
      this.seek(seconds);
    });
    this.waves[name] = wave;
  }

  drawSpectrogram() {
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
    if (this.playing) this.stop();
    else await this.start();
  }

  async start() {
    sound ??= new AudioContext({ sampleRate: this.sampleRate });
    await sound.resume();
    for (const other of players) if (other.playing) other.stop();
    this.startedAt = sound.currentTime + LEAD_SECONDS;
    this.startedFrom = this.position;
    for (const [name, channels] of Object.entries(this.channels)) {
      this.buffers ??= {};
      this.buffers[name] ??= toBuffer(channels, this.sampleRate);
      const source = new AudioBufferSourceNode(sound, { buffer: this.buffers[name], loop: true });
      const volume = new GainNode(sound, { gain: name === this.chosen ? 1 : 0 });
      source.connect(volume).connect(sound.destination);
      source.start(this.startedAt, this.startedFrom);
      this.sources[name] = { source, volume };
    }
    this.playing = true;
    this.show();
    this.follow();
  }

  stop() {
    this.position = this.currentTime;
    for (const { source } of Object.values(this.sources)) source.stop();
    this.sources = {};
    this.playing = false;
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
    const wasPlaying = this.playing;
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
    const now = this.currentTime;
    const button = this.find(".play");
    button.textContent = this.playing ? "❚❚ Pause" : "▶ Play";
    button.setAttribute("aria-pressed", String(this.playing));
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

const players = [...document.querySelectorAll("section.song")].map((section) => new Player(section));
const near = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((entry) => entry.isIntersecting)) {
    near.unobserve(entry.target);
    players.find((player) => player.section === entry.target).prepare();
  }
}, { rootMargin: "600px" });
for (const player of players) near.observe(player.section);
document.addEventListener("keydown", onKey);
