// The page: what the server offers, the choices, token, errors, appearance.
let token = "", health = { streaming: null, languages: {}, diarizer: false }, models = [];

// --- The server ---

async function ask(address, facts = {}) {
  const headers = token ? { authorization: "Bearer " + token } : {};
  let answer;
  try { answer = await fetch(address, { ...facts, headers }); } catch { throw new Error(UNREACHABLE); }
  if (answer.ok) return answer;
  if (answer.status === 401) askToken();
  let found;
  try { found = (await answer.json()).error; } catch { found = { message: "The server answered " + answer.status }; }
  throw new ServerError(found);
}

const AUTO = "auto";

// What the chosen model can do: {streaming, languages}.
function abilities() {
  if (at("model").value === AUTO) return { streaming: models.every(model => model.streaming), languages: {} };
  return (models.length > 1 && models.find(model => model.id === at("model").value)) || health;
}

function choices(purpose = "file") {
  const found = {};
  if (models.length > 1) found.model = at("model").value;
  if (found.model === AUTO) found.language = AUTO;
  else if (!at("language-row").hidden) found.language = at("language").value;
  if (at("hot").value.trim()) found.hot_words = at("hot").value.trim();
  if (purpose === "stream") return found;
  if (at("who").value === "diarize") found.diarize = "true";
  if (at("who").value === "channels") found.channels = "each";
  if (at("voice").checked) found.voice = "true";
  return found;
}

async function start() {
  try { health = await (await ask("health")).json(); } catch (error) { fail(error); return; }
  at("student").textContent = health.model ?? "";
  at("who-voice").hidden = at("who-voice").disabled = !health.diarizer;
  if (!health.diarizer && at("who").value === "diarize") { at("who").value = ""; noteOptions(); }
  offer();
  try { models = (await (await ask("v1/models")).json()).data; } catch (error) { if (error.code !== "no_token") fail(error); return; }
  offer();
}

// The models and languages to choose from.
function offer() {
  at("model-row").hidden = models.length < 2;
  at("student").hidden = models.length > 1;
  refill("model", [...(health.tagger ? [[AUTO, "by the language spoken"]] : []), ...models.map(model => [model.id, title(model)])], health.model);
  const languages = Object.entries(abilities().languages ?? {});
  at("language-row").hidden = languages.length < 2;
  refill("language", [["", "any language"], ...(health.tagger ? [[AUTO, "detect"]] : []), ...languages], "");
}
function refill(id, options, fallback) {
  const before = [at(id).options.length ? at(id).value : null, stored(id), fallback].find(value => value !== null && options.some(([known]) => known === value)) ?? options[0]?.[0] ?? "";
  at(id).replaceChildren(...options.map(([value, name]) => new Option(name, value)));
  at(id).value = before;
}
// A model by its name, and its language where the name does not say it.
function title(model) {
  const names = Object.values(model.languages ?? {});
  return names.length === 1 && !model.id.toLowerCase().includes(names[0].toLowerCase()) ? model.id + " · " + names[0] : model.id;
}

// --- The token ---

function askToken() {
  const again = Boolean(token);
  token = "";
  at("token-form").hidden = false;
  at("token-form").querySelector("label").textContent = again ? "That token is not this server's. Try again." : "This server asks for its token.";
  at("token").value = "";
  at("token").focus();
}
at("token-form").onsubmit = event => {
  event.preventDefault();
  token = at("token").value.trim();
  at("token-form").hidden = true;
  hideError();
  start().then(next);
};

// --- Errors, in one line ---

function fail(error, more = "") {
  if (error.code === "no_token") { askToken(); return; }
  at("error-text").textContent = error.message + (more ? " " + more : "");
  at("error").hidden = false;
}
function hideError() { at("error").hidden = true; }
at("error-close").onclick = hideError;

// --- Choices that the browser remembers ---

function stored(name) { try { return localStorage.getItem("lalia-" + name); } catch { return null; } }
function store(name, value) { try { localStorage.setItem("lalia-" + name, value); } catch { /* a private window */ } }

function noteOptions() {
  const words = at("hot").value.split(/[\n,;]/).filter(text => text.trim()).length;
  const notes = [words && count(words, "hot word"), at("who").value && "speakers", at("voice").checked && "speech only"];
  at("options-note").textContent = notes.filter(Boolean).join(" · ");
}
for (const name of ["hot", "who", "voice"]) {
  const box = at(name), value = box.type === "checkbox" ? "checked" : "value", before = stored(name);
  if (before !== null) box[value] = value === "checked" ? before === "true" : before;
  box.addEventListener("input", () => { store(name, box[value]); noteOptions(); });
}
at("model").onchange = () => { store("model", at("model").value); offer(); };
at("language").onchange = () => store("language", at("language").value);
noteOptions();

const THEMES = { "": "as the system", light: "light", dark: "dark" };
function paint(theme) {
  if (theme) document.documentElement.dataset.theme = theme; else delete document.documentElement.dataset.theme;
  at("theme").setAttribute("aria-label", "Appearance: " + THEMES[theme]);
  at("theme").title = "Appearance: " + THEMES[theme];
  paintWave();
}
at("theme").onclick = () => {
  const names = Object.keys(THEMES), theme = names[(names.indexOf(document.documentElement.dataset.theme ?? "") + 1) % names.length];
  store("theme", theme);
  paint(theme);
};
paint(stored("theme") in THEMES ? stored("theme") : "");
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paintWave);

// --- Files ---

at("choose-folder").hidden = !("webkitdirectory" in at("folder"));
at("file").onchange = () => { addFiles(at("file").files); at("file").value = ""; };
at("folder").onchange = () => { addFolder([...at("folder").files]); at("folder").value = ""; };
let inside = 0;
const holdsFiles = event => [...event.dataTransfer?.types ?? []].includes("Files");
addEventListener("dragenter", event => { if (holdsFiles(event)) { inside++; document.body.classList.add("over"); event.preventDefault(); } });
addEventListener("dragover", event => { if (holdsFiles(event)) event.preventDefault(); });
addEventListener("dragleave", event => { if (holdsFiles(event) && --inside <= 0) { inside = 0; document.body.classList.remove("over"); } });
addEventListener("drop", event => {
  if (!holdsFiles(event)) return;
  event.preventDefault();
  inside = 0;
  document.body.classList.remove("over");
  dropped(event.dataTransfer);
});
addEventListener("paste", event => { if (event.clipboardData?.files.length) addFiles(event.clipboardData.files); });
addEventListener("beforeunload", event => { if (talk || items.some(item => item.unsaved)) event.preventDefault(); });

start();
