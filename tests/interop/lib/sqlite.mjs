// The driver that the package's SQLite store takes, an object in the manner of better-sqlite3, over SQLite in
// WebAssembly: it needs no compiler and works in files.

import { createRequire } from "node:module";

const { Database } = createRequire(import.meta.url)("node-sqlite3-wasm");

const named = (values) =>
  values === undefined ? undefined : Object.fromEntries(Object.entries(values).map(([key, value]) => [`@${key}`, value ?? null]));

export const openSqlite = (file) => {
  const database = new Database(file);
  const statements = new Set();
  return {
    exec: (sql) => database.exec(sql),
    prepare: (sql) => {
      const statement = database.prepare(sql);
      statements.add(statement);
      return {
        run: (values) => statement.run(named(values)),
        get: (values) => statement.get(named(values)) ?? undefined,
        all: (values) => statement.all(named(values)),
      };
    },
    close: () => {
      for (const statement of statements) statement.finalize();
      database.close();
    },
  };
};
