"use strict";
// The players of the listening report: each song is in the page, as FLAC in base64.

async function decode(base64, sampleRate) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  // Decoded at the sample rate of the song, so the samples are those of the WAV file.
  const buffer = await new OfflineAudioContext(1, 1, sampleRate).decodeAudioData(bytes.buffer);
  return Array.from({ length: buffer.numberOfChannels }, (_, c) => buffer.getChannelData(c));
}

async function tracksOf(section) {
  const song = JSON.parse(document.getElementById(`data-${section.id}`).textContent);
  const names = Object.keys(song.tracks);
  const decoded = await Promise.all(names.map((name) => decode(song.tracks[name], song.sampleRate)));
  const channels = Object.fromEntries(names.map((name, i) => [name, decoded[i]]));
  if (song.residualOf) {
    const factor = 10 ** (song.amplifiedDb / 20);
    channels.residual = channels.original.map(
      (x, c) => x.map((value, i) => (value - channels[song.residualOf][c][i]) * factor));
  }
  return new Tracks(song.sampleRate, channels.original[0].length, channels);
}

const near = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((entry) => entry.isIntersecting)) {
    near.unobserve(entry.target);
    players.find((player) => player.section === entry.target).prepare();
  }
}, { rootMargin: "600px" });
for (const section of document.querySelectorAll("section.song")) {
  new Player(section, () => tracksOf(section));
  near.observe(section);
}
