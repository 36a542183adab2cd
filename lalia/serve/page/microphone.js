// The microphone: live words where the student streams, else a recording that is transcribed at its end.
const BLOCK = 2048, RATE = 16_000, SILENT_S = 3, SILENCE = 0.002;
const RECONNECTS = 20, RECONNECT_MS = 1000;
const REFUSED = "The server is busy or refuses these options for live speech. Check hot words and language, then press Speak again.";

const MICROPHONE = {
  NotAllowedError: "The microphone is blocked. Allow it for this page in the browser's address bar, then press Speak again.",
  NotFoundError: "No microphone was found. Connect one, then press Speak again.",
  NotReadableError: "The microphone is in use by another program. Close that program, then press Speak again.",
};
let talk = null, spoken = 0;

async function speak() {
  if (talk) return;
  if (!navigator.mediaDevices?.getUserMedia) {
    fail(new Error("The microphone works only on a secure page. Open this page over HTTPS, or on the server's own machine."));
    return;
  }
  talk = {};
  let media;
  try {
    media = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false } });
  } catch (error) {
    talk = null;
    fail(new Error(MICROPHONE[error.name] ?? "The microphone cannot be used: " + error.message + ". Choose another one in the browser's settings."));
    return;
  }
  hideError();
  let context = new AudioContext({ sampleRate: RATE }), source;
  try { source = context.createMediaStreamSource(media); } catch {  // browsers that do not resample the microphone
    context.close();
    context = new AudioContext();
    source = context.createMediaStreamSource(media);
  }
  const rate = context.sampleRate, pieces = [], levels = [], began = performance.now(), name = "Recording " + ++spoken;
  const item = newItem(name, null);
  Object.assign(item, { state: "live", about: "listening" });
  const live = abilities().streaming ? openStream(item, rate, pieces) : null;
  const tap = context.createScriptProcessor(BLOCK, 1, 1);
  let heard = began;
  tap.onaudioprocess = event => {
    const samples = event.inputBuffer.getChannelData(0);
    const now = performance.now();
    const piece = Int16Array.from(samples, s => Math.round(Math.max(-1, Math.min(1, s)) * 32767));
    pieces.push(piece);
    live?.send();
    for (let i = 0; i < BLOCK; i += BLOCK / 2)
      levels.push(Math.sqrt(samples.subarray(i, i + BLOCK / 2).reduce((sum, s) => sum + s * s, 0) / (BLOCK / 2)));
    if (levels.at(-1) > SILENCE) heard = now;
    const quiet = now - heard > SILENT_S * 1000;
    at("mic-hint").textContent = live?.broken() ? "Reconnecting" : quiet ? "No sound arrives. Is the microphone muted?" : live ? "Listening" : "Recording; the text follows after Stop";
    at("timer").textContent = clock((now - began) / 1000);
    drawLevels(levels);
  };
  source.connect(tap);
  tap.connect(context.destination);

  const close = () => {
    tap.onaudioprocess = null;
    media.getTracks().forEach(track => track.stop());
    if (context.state !== "closed") context.close();
    talk = null;
    document.body.classList.remove("talking");
    at("recording").hidden = true;
    at("idle").hidden = false;
    at("speak").focus({ preventScroll: true });
  };
  const keep = () => {
    if (!pieces.length) return false;
    item.blob = wav(pieces, rate);
    item.size = item.blob.size;
    item.url = URL.createObjectURL(item.blob);
    item.duration = pieces.length * BLOCK / rate;
    return true;
  };
  talk = {
    stop() {
      close();
      if (live) { live.finish(); return; }
      if (keep()) { items.unshift(item); enqueue(item); }
    },
  };
  if (live) {
    items.unshift(item);
    open(item);
    at("live").hidden = false;
    at("live").replaceChildren();
    listQueue();
    live.ended = error => {
      if (talk) close();
      at("live").hidden = true;
      at("transcript").querySelector(".tentative")?.remove();
      if (!keep()) {
        removeItem(item);
        if (error) fail(error);
      } else if (error) { failItem(item, error); } else { finish(item, { words: item.words, duration_s: item.duration }); }
      if (shown === item) { at("audio").src = item.url; drawWave(); }
    };
  }
  document.body.classList.add("talking");
  at("idle").hidden = true;
  at("recording").hidden = false;
  at("stop").focus({ preventScroll: true });
  announce(live ? "Listening" : "Recording");
}

// A WebSocket that sends `pieces`, and whose stable words are appended to `item`. A broken one is opened again where it broke.
function openStream(item, rate, pieces) {
  const query = { rate, ...choices("stream") };
  let socket, session = "new", ready = false, finishing = false, over = false, sent = 0, tries = 0;
  const end = error => { if (!over) { over = true; stream.ended(error); } };
  const stream = {
    ended: () => {},
    broken: () => session !== "new" && !ready,
    send() {
      if (!ready || socket.readyState !== 1) return;
      while (sent < pieces.length) socket.send(pieces[sent++]);
      if (finishing) { finishing = false; socket.send('{"finish": true}'); }
    },
    finish() { finishing = true; stream.send(); },
  };
  const told = event => {
    const found = JSON.parse(event.data);
    if (found.error) { end(new ServerError(found.error)); return; }
    if (found.session) {  // the first answer: how much the server has
      const samples = Math.round(found.heard_s * rate);
      session = found.session;
      sent = Math.floor(samples / BLOCK);
      ready = true;
      tries = 0;
      if (samples % BLOCK && pieces[sent]) socket.send(pieces[sent++].subarray(samples % BLOCK));
      stream.send();
      return;
    }
    item.words.push(...found.stable);
    item.about = count(item.words.length, "word") + " so far";
    if (item === shown) {
      at("transcript").querySelector(".tentative")?.remove();
      appendWords(found.stable);
      if (found.stable.length) at("live").replaceChildren(make("span", { className: "spoken", textContent: running(found.stable) }));
      const faint = make("span", { className: "tentative", textContent: " " + running(found.tentative) });
      faint.setAttribute("aria-hidden", "true");
      (at("text").lastElementChild?.lastChild ?? at("live")).append(faint);
      if (performance.now() - scrolled > 4000) faint.scrollIntoView({ block: "nearest" });
      update(item);
    }
    if (found.last) end();
  };
  const connect = () => {
    socket = new WebSocket(new URL("stream?" + new URLSearchParams({ ...query, session }), location.href).href.replace(/^http/, "ws"));
    socket.onopen = () => { if (token) socket.send(JSON.stringify({ token })); };
    socket.onmessage = told;
    socket.onclose = () => {
      if (over) return;
      const asked = ready && sent >= pieces.length && !talk;  // "finish" was sent: send it again
      ready = false;
      finishing ||= asked;
      if (session === "new") ask("health").then(() => end(new Error(REFUSED)), end);
      else if (tries++ < RECONNECTS) setTimeout(connect, RECONNECT_MS);
      else end(new Error(UNREACHABLE));
    };
  };
  connect();
  return stream;
}

function drawLevels(levels) {
  const canvas = at("levels"), width = canvas.clientWidth, scale = devicePixelRatio || 1, bars = Math.floor(width / 5);
  canvas.width = width * scale;
  canvas.height = 64 * scale;
  const draw = canvas.getContext("2d"), style = getComputedStyle(canvas);
  const loud = level => Math.max(0, Math.min(1, 1 + 20 * Math.log10(level + 1e-6) / 55));  // -55 dB to full scale
  draw.scale(scale, scale);
  draw.fillStyle = style.getPropertyValue("accent-color");
  levels.splice(0, levels.length - bars);
  levels.forEach((level, i) => {
    const tall = Math.max(3, loud(level) * 60);
    draw.globalAlpha = 0.35 + 0.65 * (i + bars - levels.length) / bars;
    draw.beginPath();
    draw.roundRect((i + bars - levels.length) * 5, 32 - tall / 2, 3, tall, 1.5);
    draw.fill();
  });
  canvas.setAttribute("aria-valuenow", Math.round(100 * loud(levels.at(-1))));
}

at("speak").onclick = speak;
at("stop").onclick = () => talk?.stop?.();
