// An explorer inside of a lesson is as high as what it shows.
addEventListener("message", (event) => {
  if (!(event.data && event.data.explorer)) return;
  for (const frame of document.querySelectorAll("iframe.explorer"))
    if (frame.contentWindow === event.source) frame.style.height = `${event.data.explorer + 40}px`;
});
