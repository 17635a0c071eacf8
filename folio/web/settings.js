/* The settings of an answer: the names, sentences and bounds of run.py, from what engine.describe() says. The first
 * half is pure; settingsForm builds the fields of the dialog.
 *
 * setting: {name, help, type: "int" | "float" | "str" | "texts", default, low, high, above, choices}
 * values: {name: value}, only those that differ from the default. A whole number beyond 2^53 is kept as text.
 */

const ESCAPES = {n: "\n", t: "\t", "\\": "\\"};

/* Return the name as run.py's flag has it: top_k -> top-k */
function flagOf(name) {
  return name.replaceAll("_", "-");
}

/* Return what a person types for a value: the inverse of readSetting. */
function settingAsText(setting, value) {
  if (value === undefined || value === null) return "";
  if (setting.type !== "texts") return String(value);
  return value.map((text) => text.replaceAll("\\", "\\\\").replaceAll("\n", "\\n").replaceAll("\t", "\\t")).join("\n");
}

/* Return {value} of what was typed, {} for nothing, which takes the default, or {problem}: a sentence. */
function readSetting(setting, typed) {
  if (setting.type === "texts") {
    const texts = typed.split("\n").filter((line) => line !== "").map(unescaped);
    return texts.length > 0 ? {value: texts} : {};
  }
  const word = typed.trim();
  if (word === "") return {};
  if (setting.type === "str") {
    if (setting.choices && !setting.choices.includes(word)) {
      return {problem: `${flagOf(setting.name)} is one of ${setting.choices.join(", ")}.`};
    }
    return {value: word};
  }
  const form = setting.type === "int" ? /^[+-]?\d+$/ : /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;
  if (!form.test(word)) {
    return {problem: `${flagOf(setting.name)} is a ${setting.type === "int" ? "whole " : ""}number, not "${word}".`};
  }
  const number = Number(word);
  const isLarge = setting.type === "int" && !Number.isSafeInteger(number);
  return boundsProblem(setting, isLarge ? BigInt(word) : number)
    || {value: isLarge ? BigInt(word).toString() : number};
}

/* Return {problem} where a number is out of its setting's bounds, else null. */
function boundsProblem({name, low, high, above}, number) {
  const isBound = (bound) => typeof bound === "number";
  // A number of JSON has 53 bits: 2^63 - 1, the largest seed, arrives as 2^63.
  const most = isBound(high) && Number.isInteger(high) && !Number.isSafeInteger(high) ? BigInt(high) - 1n : high;
  let problem = null;
  if (isBound(low) && number < low) problem = `at least ${low}`;
  if (isBound(above) && number <= above) problem = `above ${above}`;
  if (isBound(high) && number > most) problem = `at most ${most}`;
  return problem && {problem: `${flagOf(name)} must be ${problem}.`};
}

/* Read \n, \t and \\ as run.py does; any other backslash stays. */
function unescaped(text) {
  return text.replace(/\\([nt\\])/g, (both, letter) => ESCAPES[letter]);
}

/* Return {values, problems} of what a file or the storage holds: unknown names and impossible values are left out. */
function checkedSettings(settings, values) {
  const checked = {};
  const problems = [];
  for (const [name, value] of Object.entries(values)) {
    const setting = settings.find((one) => one.name === name);
    const isTexts = Array.isArray(value) && value.every((text) => typeof text === "string" && text !== "");
    const isPlain = typeof value === "string" || typeof value === "number";
    if (!setting) {
      problems.push(`There is no setting ${flagOf(name)} here.`);
    } else if (setting.type === "texts" ? !isTexts : !isPlain) {
      problems.push(`The value of ${flagOf(name)} is damaged.`);
    } else {
      const read = setting.type === "texts" ? {value} : readSetting(setting, String(value));
      if (read.problem) problems.push(read.problem);
      else if (read.value !== undefined) checked[name] = read.value;
    }
  }
  return {values: checked, problems};
}

/* Return all settings for the engine: the defaults, and what was changed. A whole number kept as text is a BigInt. */
function completeSettings(settings, values) {
  const complete = {};
  for (const {name, type, default: usual} of settings) {
    const value = values[name] ?? usual ?? null;
    complete[name] = type === "int" && typeof value === "string" ? BigInt(value) : value;
  }
  return complete;
}

/* Fill an element with a field for each setting. -> {read: () -> values or null after showing what is wrong} */
function settingsForm(container, settings, values) {
  const fields = settings.map((setting) => settingField(setting, settingAsText(setting, values[setting.name])));
  container.replaceChildren(...fields.map((field) => field.element));
  const read = () => {
    const found = {};
    let firstWrong = null;
    for (const [index, {input, error}] of fields.entries()) {
      const {value, problem} = readSetting(settings[index], input.value);
      error.textContent = problem || "";
      input.setAttribute("aria-invalid", problem ? "true" : "false");
      if (problem) firstWrong = firstWrong || input;
      else if (value !== undefined && value !== settings[index].default) found[settings[index].name] = value;
    }
    if (firstWrong) firstWrong.focus();
    return firstWrong ? null : found;
  };
  return {read};
}

/* Return {element, input, error}: one labeled field, with its sentence and a place for what is wrong with it. */
function settingField(setting, text) {
  const make = makeElement;
  const element = make("div", "field");
  const label = make("label", "field-name", flagOf(setting.name));
  const tag = setting.choices ? "select" : setting.type === "texts" ? "textarea" : "input";
  const input = make(tag, "field-input");
  input.id = `setting-${setting.name}`;
  label.htmlFor = input.id;
  if (setting.choices) {
    for (const choice of setting.choices) input.append(new Option(choice, choice, choice === setting.default));
  } else {
    input.placeholder = setting.type === "texts" ? "" : settingAsText(setting, setting.default);
    input.inputMode = setting.type === "int" ? "numeric" : setting.type === "float" ? "decimal" : "text";
    input.autocomplete = "off";
  }
  if (setting.type === "texts") input.rows = 2;
  if (text !== "" || !setting.choices) input.value = text;
  const lines = setting.type === "texts" ? " One on each line." : "";
  const help = make("p", "field-help", asSentence(setting.help) + lines);
  const error = make("p", "field-error");
  help.id = `${input.id}-help`;
  error.id = `${input.id}-error`;
  input.setAttribute("aria-describedby", `${help.id} ${error.id}`);
  element.append(label, input, help, error);
  return {element, input, error};
}

/* Return an element with a class and a text. */
function makeElement(tag, className, text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

function asSentence(words) {
  return words === "" ? "" : words[0].toUpperCase() + words.slice(1) + (/[.!?]$/.test(words) ? "" : ".");
}
