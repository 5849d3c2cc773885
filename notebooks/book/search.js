// Search the sections: all words must be there; hits in headings come first. SECTIONS is in index.js.
const root = document.currentScript.dataset.root;
const field = document.getElementById("book-search"), list = document.getElementById("book-found");

function search() {
  const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
  list.replaceChildren();
  if (!words.length || words.join("").length < 2) return;
  const edition = location.pathname.includes("/solutions/");
  const hits = [];
  for (const [place, title, id, heading, text] of SECTIONS) {
    if (place.startsWith("solutions/") != edition && !["explorers.html", "teaching.html"].includes(place)) continue;
    const name = `${title} ${heading}`.toLowerCase(), all = `${name} ${text.toLowerCase()}`;
    if (words.every(word => all.includes(word)))
      hits.push({ place, id, label: heading == title ? title : `${title}: ${heading}`, rank: words.every(word => name.includes(word)) ? 0 : 1 });
  }
  hits.sort((a, b) => a.rank - b.rank);
  for (const hit of hits.slice(0, 12)) {
    const link = document.createElement("a");
    link.href = `${root}${hit.place}#${hit.id}`;
    link.textContent = hit.label;
    list.appendChild(document.createElement("li")).appendChild(link);
  }
  if (!hits.length) list.appendChild(document.createElement("li")).textContent = "nothing found";
}
field.addEventListener("input", search);
