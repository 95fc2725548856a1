/** Waits for a state, never for a time: `check` is asked until it says something true. */
export async function eventually(what, check, within = 120_000) {
	const end = Date.now() + within;
	let last;
	for (;;) {
		try {
			const value = await check();
			if (value) return value;
			last = value;
		} catch (error) {
			last = error;
		}
		if (Date.now() > end) throw new Error(`not within ${within} ms: ${what} (last: ${last})`);
		await new Promise((resolve) => setTimeout(resolve, 50));
	}
}
