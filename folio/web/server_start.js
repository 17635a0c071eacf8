/* Open the page with the engine of its server, and show what only a server has: its models, copied stretches, the
 * training view, and whether it answers.
 */
"use strict";

const BACK = "The server answers again.";

function startServerPage() {
  const engine = createServerEngine();
  const kept = new Keeper(document.title, () => {}).read("model");
  if (kept !== null) engine.choose(kept);
  engine.askKey = askKey;
  const page = startPage(engine);
  showModels(page, engine);
  showConnection(page, engine);
  showTraining(page, engine);
  keepChoices(page, engine);
  page.colors.addMode(new CopiedColors(page, engine));
  page.at["copied-choice"].hidden = false;
  page.colors.addMode(new VoiceColors(page, engine));
  return page;
}

/* Ask for the API key that a server demands; it is kept until the browser's tab closes. -> the key, null for none */
function askKey(sentence) {
  const make = makeElement;
  const panel = make("dialog", "panel"), form = make("form", ""), buttons = make("div", "panel-buttons");
  const label = make("label", "field-name", "API key"), input = make("input", "field-input");
  const cancel = make("button", "", "Cancel"), use = make("button", "main", "Use");
  Object.assign(input, {id: "api-key", type: "password", autocomplete: "off", required: true});
  label.htmlFor = input.id;
  panel.setAttribute("aria-label", "API key");
  form.method = "dialog";
  Object.assign(cancel, {type: "button"});
  cancel.addEventListener("click", () => panel.close());
  buttons.append(cancel, use);
  form.append(make("p", "panel-lead", sentence), label, input, buttons);
  form.addEventListener("submit", () => {
    panel.returnValue = "use";
  });
  panel.append(form);
  document.body.append(panel);
  panel.showModal();
  return new Promise((resolve) => {
    panel.addEventListener("close", () => {
      panel.remove();
      resolve(panel.returnValue === "use" ? input.value.replace(/[^\x21-\x7e]/g, "") : null);
    });
  });
}

/* Let a person choose among the models of the server; the text stays. */
function showModels(page, engine) {
  const {model, name} = page.at;
  page.onDescribe = () => {
    const names = engine.models.includes(engine.model) ? engine.models : [engine.model, ...engine.models];
    model.replaceChildren(...names.map((one) => new Option(one, one, one === engine.model, one === engine.model)));
    model.hidden = names.length < 2;
    page.at["voices-choice"].hidden = !page.writing.settings.some(({name}) => name.startsWith(SHARE_OF));
    name.classList.toggle("hidden", names.length >= 2);
    page.keeper.write(engine.model, "model");
  };
  model.addEventListener("change", async () => {
    page.writing.stop();
    page.chat.stop();
    const before = engine.model;
    engine.choose(model.value);
    if (await page.connect()) return page.say(`The model is now ${engine.model}.`);
    engine.choose(before);
    model.value = before;
  });
}

/* Keep which of several answers a person takes; say at the first one where, and what for. */
function keepChoices(page, engine) {
  let isTold = false;
  const keep = async (choice) => {
    try {
      const {file} = await engine.prefer(choice);
      if (!isTold) page.tell(`Your choice is kept in ${file} of the project; train.py --preferences learns from it.`);
      isTold = true;
    } catch (error) {
      page.tell(`Your choice was not kept. ${error.message}`);
    }
  };
  page.writing.onPrefer = page.chat.onPrefer = keep;
}

/* Say when the server stops answering, and when it answers again. */
function showConnection(page, engine) {
  engine.onConnection = async (isThere) => {
    if (!isThere) return page.tell(NO_ANSWER);
    if (page.at["notice-text"].textContent === NO_ANSWER) page.at.notice.hidden = true;
    page.writing.remark = BACK;
    page.say(BACK);
    if (page.writing.engine === null) await page.connect();
    page.changed();
  };
}

/* Writing or training, as the address says: so that Back and Reload work. */
function showTraining(page, engine) {
  const {view, training} = page.at;
  const trainingView = new TrainingView(training, engine, (sentence) => page.tell(sentence));
  page.trainingView = trainingView;
  view.hidden = false;
  const show = () => {
    const isTraining = location.hash === "#training";
    document.body.classList.toggle("shows-training", isTraining);
    const before = page.isChatting ? "Chat" : "Writing";
    view.textContent = isTraining ? before : "Training";
    page.at.name.textContent = isTraining ? "Training" : page.about.name ?? "Folio";
    trainingView.isShown = isTraining;
    page.showView();
    if (!isTraining) page.focus();
  };
  view.addEventListener("click", () => {
    location.hash = location.hash === "#training" ? "" : "#training";
  });
  window.addEventListener("hashchange", show);
  show();
}

window.page = startServerPage();
