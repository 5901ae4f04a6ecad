// The page: two people side by side.

import { person } from "./person.js";

const people = [person("Ann", true), person("Ben", false)];
document.getElementById("people")?.append(...people.map(({ panel }) => panel));
