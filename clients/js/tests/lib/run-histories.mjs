// Runs random histories by the seeds on the command line, and ends with the first that finds something.

/**
 * @param {new (seed: number) => { begin?: () => Promise<void>, step: () => Promise<void>, finish: () => Promise<void> }} History
 * @param {number} steps of each history
 */
export async function runHistories(History, steps) {
  Error.stackTraceLimit = 0;
  const [first, last] = process.argv.slice(2).map(Number);
  for (let seed = first; seed <= last; seed += 1) {
    const history = new History(seed);
    try {
      await history.begin?.();
      for (let step = 0; step < steps; step += 1) await history.step();
      await history.finish();
    } catch (error) {
      console.error(`seed ${seed}: ${error.message}`);
      process.exit(1);
    }
  }
  console.log(`${last - first + 1} histories`);
}
