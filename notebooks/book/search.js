// Search the sections: all words must be there; hits in headings come first. SECTIONS is in index.js.
const root = document.currentScript.dataset.root;
const MOST = 12;
const field = document.getElementById("book-search"), list = document.getElementById("book-found");

function plain(text) { // quotes and apostrophes, curly or straight, are the same
  return text.toLowerCase().replace(/[\u2018-\u201b]/g, "'").replace(/[\u201c-\u201f]/g, '"');
}

function search() {
  const words = plain(field.value).split(/\s+/).filter(Boolean);
  list.replaceChildren();
  if (!words.length || words.join("").length < 2) return;
  const edition = location.pathname.includes("/solutions/");
  const hits = [];
  for (const [place, title, id, heading, text] of SECTIONS) {
    if (place.startsWith("solutions/") != edition && !["explorers.html", "teaching.html"].includes(place)) continue;
    const name = plain(`${title} ${heading}`), all = `${name} ${plain(text)}`;
    if (words.every(word => all.includes(word)))
      hits.push({ place, id, label: heading == title ? title : `${title}: ${heading}`, rank: words.every(word => name.includes(word)) ? 0 : 1 });
  }
  hits.sort((a, b) => a.rank - b.rank);
  for (const hit of hits.slice(0, MOST)) {
    const link = document.createElement("a");
    link.href = `${root}${hit.place}#${hit.id}`;
    link.textContent = hit.label;
    list.appendChild(document.createElement("li")).appendChild(link);
  }
  const said = !hits.length ? "nothing found" : hits.length > MOST ? `${MOST} of ${hits.length} shown` : "";
  if (said) list.appendChild(document.createElement("li")).textContent = said;
}
field.addEventListener("input", search);
field.addEventListener("keydown", event => {
  if (event.key == "Enter" && !event.isComposing) list.querySelector("a")?.click();
});
