/** Lines of measured values over time. */

export interface Sample {
	at: number;
	value: number | null;
}

/** A round number not below `value`: 1, 2 or 5 times a power of `base`. */
export function niceCeiling(value: number, base: 10 | 1024 = 10): number {
	if (!(value > 0)) return 1;
	if (base === 1024) {
		const power = 1024 ** Math.floor(Math.log(value) / Math.log(1024));
		return niceCeiling(value / power) * power;
	}
	const power = 10 ** Math.floor(Math.log10(value));
	for (const step of [1, 2, 5, 10]) if (value <= step * power * (1 + 1e-9)) return step * power;
	return 10 * power;
}

/** The parts of a line without a hole: a missing value or a long silence breaks it. */
export function runs(samples: Sample[], longest: number): Sample[][] {
	const found: Sample[][] = [];
	let run: Sample[] = [];
	for (const sample of samples) {
		const last = run.at(-1);
		if (sample.value === null || (last && sample.at - last.at > longest)) {
			if (run.length) found.push(run);
			run = sample.value === null ? [] : [sample];
		} else run.push(sample);
	}
	if (run.length) found.push(run);
	return found;
}

/** At most `limit` samples: the greatest of each stretch, for it is peaks that one looks for. */
export function thin(samples: Sample[], limit: number): Sample[] {
	if (samples.length <= limit) return samples;
	const per = samples.length / limit;
	return Array.from({ length: limit }, (_, i) => {
		const part = samples.slice(Math.floor(i * per), Math.floor((i + 1) * per));
		return part.reduce((best, s) => ((s.value ?? -1) > (best.value ?? -1) ? s : best));
	});
}

/** An SVG line through a run of samples. */
export function linePath(run: Sample[], x: (at: number) => number, y: (value: number) => number): string {
	return run.map((s, i) => `${i ? 'L' : 'M'}${x(s.at).toFixed(1)} ${y(s.value ?? 0).toFixed(1)}`).join('');
}
