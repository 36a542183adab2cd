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
