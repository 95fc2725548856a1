import { describe, expect, it } from 'vitest';
import { dropped } from './dropped';

type Tree = { [name: string]: Tree | string };

/** As a browser gives them: a folder's entries come a hundred at a time, and once. */
function entry(fullPath: string, tree: Tree | string): FileSystemEntry {
	const name = fullPath.split('/').at(-1) ?? '';
	if (typeof tree === 'string') {
		return { isFile: true, isDirectory: false, fullPath, name, file: (resolve: FileCallback) => resolve(new File([tree], name)) } as unknown as FileSystemEntry;
	}
	const createReader = () => {
		const left = Object.entries(tree).map(([child, below]) => entry(`${fullPath}/${child}`, below));
		return { readEntries: (resolve: FileSystemEntriesCallback) => queueMicrotask(() => resolve(left.splice(0, 100))) };
	};
	return { isFile: false, isDirectory: true, fullPath, name, createReader } as unknown as FileSystemEntry;
}

const drop = (entries: (FileSystemEntry | null)[], files: File[] = []): DataTransfer =>
	({ items: entries.map((e) => ({ kind: 'file', webkitGetAsEntry: () => e })), files }) as unknown as DataTransfer;

describe('what is dropped', () => {
	it('is all of a folder, however many parts it is read in, with the paths inside it', async () => {
		const many = (of: string): Tree => Object.fromEntries(Array.from({ length: 257 }, (_, i) => [`${of}-${i}`, `${of} ${i}`]));
		const tree: Tree = { ...many('a'), deep: { er: many('b'), empty: {} } };
		const found = await dropped(drop([entry('/top', tree), entry('/alone.txt', 'alone')]));
		const paths = new Set(found.map((f) => f.path));
		expect([found.length, paths.size]).toEqual([257 + 257 + 1, 257 + 257 + 1]);
		for (const path of ['top/a-0', 'top/a-99', 'top/a-100', 'top/a-256', 'top/deep/er/b-256', 'alone.txt']) {
			expect(paths.has(path), path).toBe(true);
		}
		for (const { file, path } of found.filter((_, i) => i % 50 === 0)) {
			expect(await file.text(), path).toBe(path === 'alone.txt' ? 'alone' : (path.split('/').at(-1) ?? '').replace('-', ' '));
		}
	});

	it('is the plain files where there are no entries, and nothing of a folder that is empty', async () => {
		const file = new File(['x'], 'x.txt');
		expect((await dropped(drop([null], [file]))).map((f) => f.path)).toEqual(['x.txt']);
		expect(await dropped(drop([entry('/top', {})]))).toEqual([]);
	});

	it('is given up as a whole where a part of it cannot be read', async () => {
		const broken = { isFile: false, isDirectory: true, fullPath: '/top', name: 'top', createReader: () => ({ readEntries: (_: unknown, reject: (e: Error) => void) => reject(new Error('unreadable')) }) };
		await expect(dropped(drop([broken as unknown as FileSystemEntry]))).rejects.toThrow('unreadable');
	});
});
