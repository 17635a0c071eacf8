/* Open the page with the engine of its server. */
"use strict";

window.page = startPage(createServerEngine());
