/** Values that outlive a reload, in the browser's own storage; without it they are simply forgotten. */

export function load<T>(storage: 'local' | 'session', key: string, check: (value: unknown) => T | null): T | null {
	try {
		const found = area(storage).getItem(`kepler.${key}`);
		return found === null ? null : check(JSON.parse(found));
	} catch {
		return null;
	}
}

export function save(storage: 'local' | 'session', key: string, value: unknown): void {
	try {
		if (value === null || value === undefined) area(storage).removeItem(`kepler.${key}`);
		else area(storage).setItem(`kepler.${key}`, JSON.stringify(value));
	} catch {
		// Full or forbidden: what is lost is a convenience.
	}
}

const area = (storage: 'local' | 'session'): Storage => (storage === 'local' ? localStorage : sessionStorage);
