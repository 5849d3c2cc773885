// Explorers without a kernel: the controls choose a frame. FRAMES is in frames/frames.js; of its controls the last
// changes fastest from frame to frame.
for (const section of document.querySelectorAll("[data-explorer]")) {
  const name = section.dataset.explorer, { controls, frames } = FRAMES[name];
  const picture = section.querySelector("img"), words = section.querySelector("[aria-live]");
  const inputs = controls.map(control => document.getElementById(`${name}-${control.name}`));

  function show() {
    let at = 0;
    controls.forEach((control, i) => {
      const input = inputs[i], chosen = input.type == "checkbox" ? +input.checked : +input.value;
      at = at * control.texts.length + chosen;
      if (input.type != "range") return;
      input.setAttribute("aria-valuetext", control.texts[chosen]);
      input.nextElementSibling.value = control.texts[chosen];
    });
    const [number, text] = frames[at];
    picture.classList.toggle("refused", number === null);
    if (number !== null) {
      picture.src = `frames/${name}/${number}.webp`;
      picture.alt = text;
    }
    words.textContent = text;
  }

  for (const button of section.querySelectorAll("button")) {
    const input = document.getElementById(button.dataset.plays);
    const { milliseconds } = controls[inputs.indexOf(input)];
    let clock = null;
    const stop = () => {
      clearInterval(clock);
      clock = null;
      button.textContent = "Play";
      words.setAttribute("aria-live", "polite");
    };
    const next = () => {
      input.value++;
      show();
      if (input.value == input.max) stop();
    };
    button.addEventListener("click", () => {
      if (clock) return stop();
      if (input.value == input.max) {
        input.value = input.min;
        show();
      }
      button.textContent = "Stop";
      words.setAttribute("aria-live", "off");  // nobody can listen to a sentence for each step
      clock = setInterval(next, milliseconds);
    });
    input.addEventListener("input", () => clock && stop());
  }
  for (const input of inputs) input.addEventListener("input", show);
  show();
}
