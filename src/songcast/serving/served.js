"use strict";
// The page of `songcast serve`: it sends a song and plays the prediction while the server computes.

const $ = (id) => document.getElementById(id);
const BINS = 1500; // of a waveform
const REDRAW_MS = 500, POLL_MS = 300;
const WAV_HEADER_BYTES = 44, FULL_SCALE = 32768;

let limits = null;
let shown = null; // the file of the page
const running = {}; // AbortControllers of the requests "forecast" and "continue"

// Tracks that arrive as interleaved int16 samples. The error is computed when it is used.
class Received extends Tracks {
  constructor(sampleRate, frames, width, names) {
    const channels = Object.fromEntries(names.map((name) => [name, Array.from({ length: width }, () => new Int16Array(frames))]));
    super(sampleRate, frames, channels);
    this.ready = 0;
    this.hasError = names.length === 2;
    this.bins = Object.fromEntries(this.names.map((name) => [name, Array.from({ length: width }, () => new Float32Array(BINS))]));
  }

  get names() { return [...Object.keys(this.channels), ...(this.hasError ? ["residual"] : [])]; }

  // The peak of a track, without the first second, in which the forecaster learns the song.
  peak(name) {
    const from = Math.floor(Math.min(this.sampleRate, this.ready / 2) * BINS / this.frames);
    return Math.max(1, ...this.bins[name].map((bins) => bins.subarray(from).reduce((a, b) => Math.max(a, b), 0)));
  }

  // The gain in whole dB that raises the peak of the error to that of the song, as in the report.
  get amplifiedDb() { return Math.floor(20 * Math.log10(this.peak("original") / this.peak("residual"))); }

  value(name, c, i) {
    if (name !== "residual") return this.channels[name][c][i];
    return this.channels.original[c][i] - this.channels.pred_song[c][i];
  }

  add(samples) {
    const tracks = Object.values(this.channels).flat(), count = samples.length / tracks.length;
    for (let i = 0, at = 0; i < count; i++) for (const track of tracks) track[this.ready + i] = samples[at++];
    for (const [name, bins] of Object.entries(this.bins)) bins.forEach((row, c) => {
      for (let i = this.ready; i < this.ready + count; i++) {
        const bin = Math.floor(i * BINS / this.frames), value = Math.abs(this.value(name, c, i));
        if (value > row[bin]) row[bin] = value;
      }
    });
    this.ready += count;
  }

  scale(name) { return (name === "residual" ? 10 ** (this.amplifiedDb / 20) : 1) / FULL_SCALE; }

  // The largest amplitude of a track; the error of the first second would exceed it.
  limit(name) { return name === "residual" ? this.peak("original") / FULL_SCALE : 1; }

  piece(name, start, stop) {
    const scale = this.scale(name), limit = this.limit(name);
    const width = this.channels[Object.keys(this.channels)[0]].length;
    return Array.from({ length: width }, (_, c) => Float32Array.from({ length: stop - start },
      (_, i) => Math.max(-limit, Math.min(limit, this.value(name, c, start + i) * scale))));
  }

  peaks(name) {
    const scale = this.scale(name), limit = this.limit(name);
    return this.bins[name].map((row) => row.map((value) => Math.min(limit, value * scale)));
  }
}

function clock(seconds) { return `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`; }
function megabytes(bytes) { return (bytes / 2 ** 20).toFixed(1); }

function setStatus(id, text, isError = false) {
  $(id).textContent = text;
  $(id).className = isError ? "error" : "";
}

function headers() {
  const token = $("token").value;
  return token ? { Authorization: "Bearer " + token } : {};
}

async function request(path, options = {}) {
  const response = await fetch(path, { ...options, headers: headers() });
  if (response.ok) return response;
  if (response.status === 401) $("token-field").hidden = false;
  let text = "the server responded with status " + response.status;
  try { text = (await response.json()).message; } catch (_) { /* not JSON: show the status */ }
  throw new Error(text);
}

// Send the file to `path` and call `onTracks` with the header, then `onSamples` for each part.
async function receive(path, file, signal, onHeader, onSamples) {
  const response = await request(path, { method: "POST", body: file, signal });
  const reader = response.body.getReader();
  let waiting = new Uint8Array(0), frameBytes = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const bytes = new Uint8Array(waiting.length + value.length);
    bytes.set(waiting);
    bytes.set(value, waiting.length);
    let start = 0;
    if (!frameBytes) {
      if (bytes.length < WAV_HEADER_BYTES) { waiting = bytes; continue; }
      const view = new DataView(bytes.buffer);
      const width = view.getUint16(22, true);
      frameBytes = 2 * width;
      onHeader(view.getUint32(24, true), view.getUint32(40, true) / frameBytes, width);
      start = WAV_HEADER_BYTES;
    }
    const stop = bytes.length - (bytes.length - start) % frameBytes;
    if (stop > start) onSamples(new Int16Array(bytes.buffer.slice(start, stop)));
    waiting = bytes.slice(stop);
  }
}

// Ask for the progress of a job until `signal` is aborted; return the last answer.
async function follow(name, signal, show) {
  let last = null;
  while (!signal.aborted) {
    try {
      last = await (await request("jobs/" + name)).json();
      if (signal.aborted) break;
      show(last);
    } catch (_) { /* the request itself reports what is wrong */ }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
  return last;
}

function showProgress(job) {
  const bar = $("progress");
  bar.hidden = false;
  if (job.state === "receiving") {
    bar.max = job.body_bytes || shown.size;
    bar.value = job.received_bytes;
    setStatus("status", `Sending: ${megabytes(job.received_bytes)} of ${megabytes(bar.max)} MB`);
  } else if (job.state === "computing" || job.state === "finished") {
    bar.max = job.seconds;
    bar.value = job.seconds_done;
    const left = job.seconds_left === null ? "" : `, ${clock(job.seconds_left)} left`;
    setStatus("status", `Forecast: ${clock(job.seconds_done)} of ${clock(job.seconds)}${left}`);
    showMetrics(job);
  } else if (job.state === "waiting" || job.state === "decoding") {
    bar.removeAttribute("value");
    setStatus("status", job.state === "waiting" ? "Waiting until the server has finished other requests" : "Decoding");
  }
}

function showMetrics(job) {
  if (job.bits_per_sample === null) return;
  const gains = job.prediction_gain_db;
  const items = [
    [gains.map((gain) => gain.toFixed(2)).join(" / ") + " dB", "prediction gain"],
    [job.bits_per_sample.toFixed(4), "bits per sample, of 16"],
    [`${(10 ** (gains.reduce((a, b) => a + b, 0) / gains.length / 20)).toFixed(0)} × smaller`, "than the song: the error"],
  ];
  $("metrics").replaceChildren(...items.map(([value, name]) => {
    const item = document.createElement("li"), big = document.createElement("b");
    big.textContent = value;
    item.append(big, name);
    return item;
  }));
  $("metrics").hidden = false;
}

// A player that draws what has arrived. Returns the two functions for `receive`.
function incoming(section, names) {
  players.find((player) => player.section === section)?.remove();
  section.querySelector(".play").disabled = true;
  let player = null, tracks = null, drawn = 0;
  return [
    (sampleRate, frames, width) => {
      tracks = new Received(sampleRate, frames, width / names.length, names);
      section.hidden = false;
      player = new Player(section, async () => tracks);
      player.choose(names.at(-1));
      player.prepare();
      $("about").textContent = section.id === "song" ? `${clock(tracks.seconds)}, ${width / names.length === 1 ? "mono" : "stereo"}, ${sampleRate / 1000} kHz` : $("about").textContent;
    },
    (samples) => {
      tracks.add(samples);
      const now = performance.now();
      if (now - drawn < REDRAW_MS && tracks.ready < tracks.frames) return;
      drawn = now;
      player.prepare().then(() => player.grown());
      if (tracks.hasError) $("louder").textContent = `original − prediction, ${tracks.amplifiedDb} dB louder`;
    },
  ];
}

function newRequest(kind) {
  running[kind]?.abort();
  const controller = running[kind] = new AbortController();
  return [controller.signal, () => running[kind] === controller];
}

function inPage(error) { return error.message.replace(/^song( 0)?:/, shown.name + ":"); }

async function forecast(file) {
  if (limits && file.size > limits.body_bytes) {
    setStatus("status", `${file.name}: ${megabytes(file.size)} MB; choose a file of at most ${megabytes(limits.body_bytes)} MB`, true);
    return;
  }
  running.continue?.abort();
  const [signal, isCurrent] = newRequest("forecast");
  for (const player of [...players]) player.remove(); // of the song before
  shown = file;
  $("name").textContent = file.name;
  $("song").hidden = $("more").hidden = $("continuation").hidden = $("metrics").hidden = true;
  setStatus("more-status", "");
  const job = Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16)).join("-");
  const polling = new AbortController();
  const polled = follow(job, polling.signal, showProgress);
  setStatus("status", "Sending");
  $("cancel").hidden = false;
  try {
    await receive(`forecast?original=true&job=${job}`, file, signal, ...incoming($("song"), ["original", "pred_song"]));
    polling.abort();
    if (!isCurrent()) return;
    showMetrics(await (await request("jobs/" + job)).json());
    setStatus("status", "Done.");
    $("more").hidden = false;
  } catch (error) {
    polling.abort();
    const last = await polled;
    if (!isCurrent()) return;
    if (signal.aborted) setStatus("status", "Cancelled.");
    else setStatus("status", last?.error && !$("song").hidden ? last.error : inPage(error), true);
  }
  $("cancel").hidden = $("progress").hidden = true;
}

async function continueSong() {
  const [signal, isCurrent] = newRequest("continue");
  const query = new URLSearchParams({ seconds: $("seconds").value, temperature: $("temperature").value, seed: $("seed").value });
  const [onHeader, onSamples] = incoming($("continuation"), ["continuation"]);
  setStatus("more-status", "Continuing …");
  try {
    await receive("continue?" + query, shown, signal, onHeader, onSamples);
    if (isCurrent()) setStatus("more-status", "");
  } catch (error) {
    if (isCurrent() && !signal.aborted) setStatus("more-status", inPage(error), true);
  }
}

async function showServer() {
  const response = await fetch("version", { headers: headers() });
  if (response.status === 401) { $("token-field").hidden = false; return; }
  const served = await response.json();
  const name = served.version === null ? served.uri : `version ${served.version}` + (served.alias ? ` (${served.alias})` : "");
  $("served").innerHTML = '<a href="docs">API documentation</a> · model: ';
  $("served").append(name + (served.commit ? ", commit " + served.commit.slice(0, 12) : ""));
  limits = await (await request("limits")).json();
  const perMinute = 60 * 44100 / limits.frames_per_second;
  $("limits").textContent = `up to ${(limits.body_bytes / 2 ** 20).toFixed(0)} MB and ${clock(limits.frames / 44100)} at 44.1 kHz · ` +
    `a minute of stereo takes about ${perMinute < 10 ? perMinute.toFixed(1) : perMinute.toFixed(0)} s`;
}

$("file").onchange = (event) => { if (event.target.files[0]) forecast(event.target.files[0]); };
for (const name of ["dragover", "dragleave", "drop"]) $("drop").addEventListener(name, (event) => {
  event.preventDefault();
  $("drop").classList.toggle("over", name === "dragover");
  if (name === "drop" && event.dataTransfer.files[0]) forecast(event.dataTransfer.files[0]);
});
$("cancel").onclick = () => running.forecast.abort();
$("continue").onclick = continueSong;
$("token").onchange = showServer;
showServer();
