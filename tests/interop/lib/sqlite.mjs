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
        // Read to the end: a statement left in the middle keeps the file locked.
        get: (values) => statement.all(named(values))[0],
        all: (values) => statement.all(named(values)),
      };
    },
    /** Ends it, and with it its statements; may be called again. */
    close: () => {
      if (!database.isOpen) return;
      for (const statement of statements) statement.finalize();
      database.close();
    },
  };
};
