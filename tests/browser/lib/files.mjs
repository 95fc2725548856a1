/** How tests of files look at a folder on the page and at what a node has stored. */
import { createHash } from 'node:crypto';

export const sha = (bytes) => createHash('sha256').update(bytes).digest('hex');
export const row = (page, name) => page.locator(`[data-row="${name}"]`);
export const item = (page, name) => page.locator(`[data-testid=uploads] [data-name="${name}"]`);
export const state = (page, name) => item(page, name).getAttribute('data-state');

/** The bytes that a node gives. */
export const stored = async (node, name) =>
	Buffer.from(await (await node.fetch(`/v1/files/${name.split('/').map(encodeURIComponent).join('/')}`)).arrayBuffer());

/** Does something from the menu of a row. */
export async function act(page, name, label) {
	await row(page, name).getByRole('button', { name: /^Actions/ }).click();
	await page.getByRole('menuitem', { name: label }).click();
}
