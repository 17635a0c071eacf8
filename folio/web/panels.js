/* The page's panels and files: settings, versions, keys, theme; save and open. Each takes the Page. */

const VERSION_SNIPPET = 140;            // characters of a branch's end in the list of versions
const MOST_LISTED = 200;                // branches in it

function listenToPanels(page) {
  const {at} = page;
  const click = (id, action) => at[id].addEventListener("click", action);
  click("keys", () => at["keys-panel"].showModal());
  click("versions", () => showVersions(page));
  click("settings", () => showSettings(page));
  click("theme", () => {
    const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme || "auto") + 1) % THEMES.length];
    setTheme(page, next);
    page.keeper.write(next, "theme");
  });
  for (const panel of document.querySelectorAll("dialog")) {
    panel.addEventListener("click", (event) => {                // on what is around the panel
      if (event.target === panel && isOutside(panel, event)) panel.close("cancel");
    });
  }
}

function isOutside(element, {clientX, clientY}) {
  const {left, right, top, bottom} = element.getBoundingClientRect();
  return clientX < left || clientX > right || clientY < top || clientY > bottom;
}

/* Dark, light, or as the system has it. */
function setTheme(page, theme) {
  const known = THEMES.includes(theme) ? theme : "auto";
  if (known === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = known;
  const words = {auto: "Colors as the system has them", light: "Light", dark: "Dark"}[known];
  page.at["theme-name"].textContent = `Dark or light: ${words}`;
  page.at.theme.title = words;
}

// --- Settings ---

function showSettings(page) {
  const {at, writing} = page;
  const panel = at["settings-panel"];
  let form = settingsForm(at["settings-fields"], writing.settings, writing.values);
  at["settings-reset"].onclick = () => {
    form = settingsForm(at["settings-fields"], writing.settings, {});
  };
  at["settings-cancel"].onclick = () => panel.close();
  at["settings-form"].onsubmit = (event) => {
    event.preventDefault();
    const values = form.read();
    if (values === null) return;
    writing.values = values;
    panel.close();
    page.changed();
  };
  panel.showModal();
}

// --- Versions ---

/* List all branches by their last words. */
function showVersions(page) {
  const {at, writing} = page;
  const {story} = writing;
  const leaves = story.leaves();
  const here = new Set([story.newestAfter(story.current)]);
  const buttons = leaves.slice(0, MOST_LISTED).map((number) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(endOfVersion(story, number));
    const facts = document.createElement("small");
    facts.textContent = versionFacts(story.nodes[number]);
    button.append(facts);
    if (here.has(number)) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => {
      at["versions-panel"].close();
      writing.move((moving) => moving.go(number));
      at.text.focus();
    });
    return button;
  });
  at["versions-list"].replaceChildren(...buttons);
  at["versions-panel"].showModal();
}

/* Return the last words that a version and those before it put in. */
function endOfVersion(story, number) {
  const parts = [];
  let length = 0;
  for (const node of story.path(number).reverse()) {
    if (length >= VERSION_SNIPPET) break;
    const text = textOfRuns(story.nodes[node].inserted);
    parts.unshift(text);
    length += text.length;
  }
  const end = parts.join("").replace(/\s+/g, " ").trim();
  if (end === "") return "(empty)";
  return end.length > VERSION_SNIPPET ? `… ${end.slice(-VERSION_SNIPPET)}` : end;
}

function versionFacts({answer, details, inserted}) {
  if (answer === null) return textOfRuns(inserted) === "" ? "deleted" : "typed";
  const {tokens, bits, seed, stream} = details || {};
  if (!tokens) return "by the model";
  const which = stream > 0 ? `, answer ${stream + 1}` : "";
  return `by the model, ${tokens} tokens, ${Math.round(bits)} bits, seed ${seed}${which}`;
}

// --- Files ---

function listenToFiles(page) {
  const {at} = page;
  at["save-menu"].addEventListener("toggle", () => {
    const {left, bottom} = at.save.getBoundingClientRect();
    const widest = window.innerWidth - at["save-menu"].offsetWidth - 12;
    at["save-menu"].style.left = `${Math.max(12, Math.min(left, widest))}px`;
    at["save-menu"].style.top = `${bottom + MENU_GAP}px`;
  });
  at["save-text"].addEventListener("click", () => {
    at["save-menu"].hidePopover();
    const {text} = page.toSave();
    saveFile(`${fileNameFor(text)}.txt`, text, "text/plain");
  });
  at["save-story"].addEventListener("click", () => {
    at["save-menu"].hidePopover();
    saveStory(page);
  });
  at.open.addEventListener("click", () => at.file.click());
  at.file.addEventListener("change", () => {
    const [file] = at.file.files;
    at.file.value = "";                                         // the same file can be opened again
    if (file) openFile(page, file);
  });
  document.addEventListener("dragover", (event) => {
    if (event.dataTransfer.types.includes("Files")) event.preventDefault();
  });
  document.addEventListener("drop", (event) => {
    const [file] = event.dataTransfer.files;
    if (!file) return;                                          // a text: the text area takes it
    event.preventDefault();                                     // else the browser leaves the page for the file
    if (!at.open.disabled) openFile(page, file);
  });
}

function saveStory(page) {
  const {text, json} = page.toSave();
  saveFile(`${fileNameFor(text)}.json`, json(), "application/json");
}

/* Open a .json with versions in place of all that is here, after asking; any other file as one version more. */
async function openFile(page, file) {
  try {
    const source = await readTextFile(file), isJson = file.name.toLowerCase().endsWith(".json");
    if (page.isChatting) await page.chat.open(source, isJson || file.name.toLowerCase().endsWith(".jsonl"));
    else if (!isJson) page.writing.replaceAll(source);
    else await openStoryFile(page, source);
  } catch (error) {
    page.tell(`${file.name} cannot be opened. ${error.message}`);
  }
  page.focus();
}

async function openStoryFile(page, source) {
  const opened = storyFromJson(source);
  const {nodes} = page.writing.story, versions = page.writing.story.leaves().length;
  const counted = versions === 1 ? "its one version" : `its ${versions} versions`;
  const sentence = `The text here and ${counted} give way to those of the file.`;
  if (nodes.length === 1 || await mayReplace(page, sentence)) page.openStory(opened);
}

/* Ask whether what is here may go, and save it if the person wants that. */
function mayReplace(page, sentence) {
  const panel = page.at["replace-panel"];
  page.at["replace-title"].textContent = page.isChatting ? "Replace the conversation here?" : "Replace the text here?";
  page.at["replace-text"].textContent = sentence;
  panel.returnValue = "cancel";
  panel.showModal();
  return new Promise((resolve) => {
    panel.addEventListener("close", () => {
      if (panel.returnValue === "save") saveStory(page);
      resolve(panel.returnValue !== "cancel");
    }, {once: true});
  });
}
