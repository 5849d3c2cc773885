// An explorer inside of a lesson is as high as what it shows.
addEventListener("message", (event) => {
  if (!(event.data && event.data.explorer)) return;
  for (const frame of document.querySelectorAll("iframe.explorer"))
    if (frame.contentWindow === event.source) frame.style.height = `${event.data.explorer + 40}px`;
});

// On a narrow screen the theme listens to the buttons of its upper bar, which is hidden here: the
// buttons above a page do what those would.
addEventListener("click", (event) => {
  for (const side of ["primary", "secondary"]) {
    const heard = document.querySelector(`.${side}-toggle`);
    const pressed = event.target.closest(`.${side}-toggle`);
    const box = document.getElementById(`pst-${side}-sidebar`)?.getBoundingClientRect();
    const isAway = !box?.width || box.right <= 0 || box.left >= innerWidth;
    if (pressed && pressed !== heard && isAway) heard.click();
  }
});
