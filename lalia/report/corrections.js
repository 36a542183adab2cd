{
  const list = document.getElementById("doubts"), progress = document.getElementById("progress");
  const clips = [...list.querySelectorAll(".doubt")], storage = "lalia corrections " + list.dataset.storage;
  const verbs = { accept: "accepted", correct: "corrected", refuse: "refused" };
  let decisions = {}, kept = true, current = -1;
  // The pages of one table share their decisions, so each page downloads all of them.
  const read = () => {
    try { decisions = JSON.parse(localStorage.getItem(storage) || "{}"); } catch { kept = false; }
  };
  const write = () => {
    try { localStorage.setItem(storage, JSON.stringify(decisions)); } catch { kept = false; }
  };

  function show() {
    const counts = { accept: 0, correct: 0, refuse: 0 };
    for (const clip of clips) {
      const decision = decisions[clip.dataset.piece];
      for (const name in verbs) clip.classList.toggle(name, decision?.decision === name);
      for (const button of clip.querySelectorAll("[data-decision]"))
        button.setAttribute("aria-pressed", String(decision?.decision === button.dataset.decision));
      if (decision) counts[decision.decision]++;
      const text = clip.querySelector(".text"), corrected = decision?.decision === "correct";
      clip.marked ??= [...text.childNodes];
      text.replaceChildren(...(corrected ? [decision.text] : clip.marked));
    }
    const done = counts.accept + counts.correct + counts.refuse;
    const made = Object.entries(counts).filter(([, count]) => count).map(([name, count]) => `${count} ${verbs[name]}`);
    progress.textContent = `${done} of ${clips.length} decided` + (made.length ? `: ${made.join(", ")}` : "")
      + (kept ? "" : ". This browser does not keep decisions: download them before you close the page");
  }

  function select(index, scroll = true) {
    if (!clips[index]) return;
    clips[current]?.classList.remove("current");
    clips[current]?.removeAttribute("aria-current");
    current = index;
    clips[current].classList.add("current");
    clips[current].setAttribute("aria-current", "true");
    clips[current].focus({ preventScroll: true });
    if (scroll) clips[current].scrollIntoView({ block: "nearest" });
  }

  const play = clip => clip.querySelector("audio")?.play().catch(() => {});  // a decision may pause it before it begins
  function toggle() {
    const audio = clips[current]?.querySelector("audio");
    if (audio) audio.paused ? play(clips[current]) : audio.pause();
  }

  function decide(decision, text) {
    read();
    const clip = clips[current];
    decisions[clip.dataset.piece] = { decision, text };
    write();
    show();
    clip.querySelector("audio")?.pause();
    if (clips[current + 1]) { select(current + 1); play(clips[current]); } else { clip.focus(); }
  }

  function undo() {
    read();
    delete decisions[clips[current].dataset.piece];
    write();
    show();
  }

  function edit() {
    const clip = clips[current], box = clip.querySelector("textarea"), text = clip.querySelector(".text");
    box.value = decisions[clip.dataset.piece]?.text ?? clip.dataset.text;
    box.hidden = false;
    text.hidden = true;
    box.focus();
  }

  function close(save) {
    const clip = clips[current], box = clip.querySelector("textarea");
    const text = box.value.split(/\s+/).filter(Boolean).join(" ");
    box.hidden = true;
    clip.querySelector(".text").hidden = false;
    clip.focus({ preventScroll: true });
    if (save && text) decide(text === clip.dataset.text ? "accept" : "correct", text);
  }

  function act(name) {
    if (current < 0) return;
    const clip = clips[current];
    if (name === "correct") edit();
    else if (name === "refuse" || clip.dataset.text) decide(name, clip.dataset.text);
  }

  const keys = {
    " ": toggle, a: () => act("accept"), c: () => act("correct"), r: () => act("refuse"), u: undo,
    j: () => select(current + 1), ArrowDown: () => select(current + 1),
    k: () => select(current - 1), ArrowUp: () => select(current - 1),
  };
  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (event.target.tagName === "TEXTAREA") {
      if (event.key === "Enter" || event.key === "Escape") { event.preventDefault(); close(event.key === "Enter"); }
    } else if (keys[event.key] && !(event.key === " " && event.target.closest("#download, .decide"))) {
      event.preventDefault();
      keys[event.key]();
    }
  });
  list.addEventListener("click", event => {
    const clip = event.target.closest(".doubt");
    if (!clip || event.target.tagName === "TEXTAREA") return;
    const open = clips[current]?.querySelector("textarea");
    if (open && !open.hidden) close(false);
    const index = clips.indexOf(clip);
    if (index !== current) select(index, false);
    const button = event.target.closest("[data-decision]");
    if (button) act(button.dataset.decision);
  });

  document.getElementById("download").addEventListener("click", () => {
    read();
    const rows = Object.entries(decisions).map(([piece, { decision, text }]) => [piece, decision, text].join("\t"));
    const table = ["piece\tdecision\ttext", ...rows].join("\n") + "\n";
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([table], { type: "text/tab-separated-values" }));
    link.download = "corrections.tsv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  });

  read();
  show();
  select(0, false);
}
