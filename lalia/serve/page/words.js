// Words, times and files: no DOM here.
const UNSURE = 0.8, DOUBTFUL = 0.5;
const PAUSE_S = 2, BREATH_S = 0.4, LONG_TURN = 60, LONGEST_TURN = 120;

function clock(seconds) {
  const s = Math.floor(seconds), two = n => String(n).padStart(2, "0");
  return (s >= 3600 ? Math.floor(s / 3600) + ":" + two(Math.floor(s / 60) % 60) : Math.floor(s / 60)) + ":" + two(s % 60);
}
function span(seconds) {
  if (seconds < 10) return seconds.toFixed(1) + " s";
  return seconds < 90 ? Math.round(seconds) + " s" : Math.round(seconds / 60) + " min";
}
function size(bytes) { return bytes < 1e6 ? Math.ceil(bytes / 1e3) + " kB" : (bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0) + " MB"; }
function count(n, what) { return n.toLocaleString("en") + " " + what + (n === 1 ? "" : "s"); }
function running(words) { return words.map((word, i) => (word.joined || !i ? "" : " ") + word.text).join(""); }
function label(word) { return word.speaker || (word.channel ? String(word.channel) : ""); }

// Whether a paragraph begins at a word: another speaker, a long pause, or a breath in a long paragraph of `length` words.
function begins(word, before, length) {
  if (!before || label(word) !== label(before)) return true;
  if (word.joined) return false;
  const pause = word.start_s - before.end_s;
  return pause > PAUSE_S || (length >= LONG_TURN && pause > BREATH_S) || length >= LONGEST_TURN;
}

// The words that replace a corrected one: none, one, or several that share its time by their length.
function corrected(word, text) {
  const parts = text.trim().split(/\s+/).filter(Boolean), total = parts.join("").length;
  const was = word.was ?? word.text;
  let start = word.start_s;
  return parts.map((part, i) => {
    const end = start + (word.end_s - word.start_s) * part.length / total;
    const made = { ...word, text: part, start_s: start, end_s: end, confidence: 1, joined: word.joined && i === 0, was };
    start = end;
    return made;
  });
}

// Mono samples as a WAV file.
function wav(pieces, rate) {
  const bytes = pieces.reduce((sum, piece) => sum + piece.byteLength, 0), head = new DataView(new ArrayBuffer(44));
  const text = (place, letters) => [...letters].forEach((letter, i) => head.setUint8(place + i, letter.charCodeAt(0)));
  text(0, "RIFF"); head.setUint32(4, 36 + bytes, true); text(8, "WAVEfmt "); head.setUint32(16, 16, true);
  head.setUint16(20, 1, true); head.setUint16(22, 1, true); head.setUint32(24, rate, true); head.setUint32(28, 2 * rate, true);
  head.setUint16(32, 2, true); head.setUint16(34, 16, true); text(36, "data"); head.setUint32(40, bytes, true);
  return new Blob([head, ...pieces], { type: "audio/wav" });
}

function crc32(bytes) {
  let crc = -1;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc >>> 1 ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return (crc ^ -1) >>> 0;
}

// Files {name, text} as a ZIP archive without compression.
function zip(entries) {
  const parts = [], directory = [];
  let at = 0;
  for (const { name, text } of entries) {
    const path = new TextEncoder().encode(name), data = new TextEncoder().encode(text);
    const fields = new DataView(new ArrayBuffer(26));
    fields.setUint16(0, 20, true); fields.setUint16(2, 0x800, true); fields.setUint16(8, 0x21, true);
    fields.setUint32(10, crc32(data), true); fields.setUint32(14, data.length, true); fields.setUint32(18, data.length, true);
    fields.setUint16(22, path.length, true);
    parts.push("PK\x03\x04", fields, path, data);
    const place = new DataView(new ArrayBuffer(14));
    place.setUint32(10, at, true);
    directory.push("PK\x01\x02\x14\x00", fields, place, path);
    at += 30 + path.length + data.length;
  }
  const middle = new Blob(directory), end = new DataView(new ArrayBuffer(18));
  end.setUint16(4, entries.length, true); end.setUint16(6, entries.length, true);
  end.setUint32(8, middle.size, true); end.setUint32(12, at, true);
  return new Blob([...parts, middle, "PK\x05\x06", end], { type: "application/zip" });
}
