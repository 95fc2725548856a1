/**
 * Descriptions of JSON that check what came from the network and give it its type.
 *
 * Unknown fields are ignored, as the API's description asks, except in strict mode, with which tests
 * compare these shapes with the description itself and with what a live node answers.
 */

export class ShapeError extends Error {
	constructor(path: string, wanted: string) {
		super(`the answer is not what was expected: ${path || 'it'} should be ${wanted}`);
		this.name = 'ShapeError';
	}
}

export interface Shape<T> {
	readonly check: (value: unknown, path: string, strict: boolean) => T;
	readonly optional?: boolean;
}

export type Infer<S> = S extends Shape<infer T> ? T : never;

type Fields = Record<string, Shape<unknown>>;
type OptionalKeys<F extends Fields> = {
	[K in keyof F]: F[K] extends { readonly optional: true } ? K : never;
}[keyof F];
type Built<F extends Fields> = { [K in Exclude<keyof F, OptionalKeys<F>>]: Infer<F[K]> } & {
	[K in OptionalKeys<F>]?: Infer<F[K]>;
};
type Flat<T> = { [K in keyof T]: T[K] };

const primitive = <T>(kind: string, test: (value: unknown) => value is T): Shape<T> => ({
	check(value, path) {
		if (!test(value)) throw new ShapeError(path, kind);
		return value;
	}
});

export const text = primitive('text', (v): v is string => typeof v === 'string');
export const number = primitive('a number', (v): v is number => typeof v === 'number' && Number.isFinite(v));
export const flag = primitive('true or false', (v): v is boolean => typeof v === 'boolean');

export const oneOf = <const T extends string>(...words: T[]): Shape<T> =>
	primitive(`one of ${words.join(', ')}`, (v): v is T => words.includes(v as T));

export const list = <T>(item: Shape<T>): Shape<T[]> => ({
	check(value, path, strict) {
		if (!Array.isArray(value)) throw new ShapeError(path, 'a list');
		return value.map((v, i) => item.check(v, `${path}[${i}]`, strict));
	}
});

/** A field that may be absent or null. */
export const maybe = <T>(item: Shape<T>): Shape<T | null> & { readonly optional: true } => ({
	optional: true,
	check: (value, path, strict) => (value === null || value === undefined ? null : item.check(value, path, strict))
});

export const object = <F extends Fields>(fields: F): Shape<Flat<Built<F>>> => ({
	check(value, path, strict) {
		if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new ShapeError(path, 'an object');
		const from = value as Record<string, unknown>;
		if (strict) {
			for (const key of Object.keys(from)) {
				if (!(key in fields)) throw new ShapeError(`${path}.${key}`, 'absent: nobody knows it');
			}
		}
		const built: Record<string, unknown> = {};
		for (const [key, shape] of Object.entries(fields)) {
			if (from[key] === undefined && shape.optional) continue;
			built[key] = shape.check(from[key], path ? `${path}.${key}` : key, strict);
		}
		return built as Flat<Built<F>>;
	}
});
