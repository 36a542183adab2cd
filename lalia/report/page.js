for (const player of document.querySelectorAll(".player")) {
  const audio = player.querySelector("audio"), wave = player.querySelector(".wave");
  const draw = () => {
    const share = audio.duration ? audio.currentTime / audio.duration : 0;
    wave.style.setProperty("--played", `${100 * share}%`);
    if (!audio.paused) requestAnimationFrame(draw);
  };
  player.querySelector("button").addEventListener("click", () => audio.paused ? audio.play() : audio.pause());
  wave.addEventListener("click", event => {
    if (audio.duration) audio.currentTime = audio.duration * event.offsetX / wave.clientWidth;
    audio.play();
  });
  audio.addEventListener("play", () => {
    for (const other of document.querySelectorAll("audio")) if (other !== audio) other.pause();
    player.classList.add("playing");
    draw();
  });
  audio.addEventListener("pause", () => player.classList.remove("playing"));
  audio.addEventListener("ended", () => { audio.currentTime = 0; draw(); });
}
for (const button of document.querySelectorAll(".copy")) button.addEventListener("click", async () => {
  const code = button.parentElement.querySelector("code");
  try {
    await navigator.clipboard.writeText(code.textContent);
  } catch {
    getSelection().selectAllChildren(code);
    if (!document.execCommand("copy")) return;
  }
  button.textContent = "copied";
  setTimeout(() => { button.textContent = "copy"; }, 1500);
});
// A link of the table of contents opens the folded section that it points to.
for (const link of document.querySelectorAll(".contents a")) link.addEventListener("click", () => {
  const fold = document.querySelector(`${link.hash} > details`);
  if (fold) fold.open = true;
});
