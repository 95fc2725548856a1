/** One upload with progress, which `fetch` cannot tell. */
import { authHeaders, problem, Unreachable } from './http';
import { filePath } from './client';
import { Receipt, type Durability } from './shapes';

export interface UploadOptions {
	name: string;
	body: Blob;
	contentType: string;
	durability: Durability;
	onProgress: (sent: number) => void;
	signal: AbortSignal;
}

/**
 * Stores a file.
 *
 * @throws {ApiError}, {@link Unreachable}, or an AbortError when `signal` says so.
 */
export function upload(options: UploadOptions): Promise<Receipt> {
	return new Promise((resolve, reject) => {
		const xhr = new XMLHttpRequest();
		const abort = () => xhr.abort();
		const settle = (act: () => void) => {
			options.signal.removeEventListener('abort', abort);
			act();
		};
		xhr.open('PUT', `${filePath(options.name)}?durability=${options.durability}`);
		for (const [name, value] of Object.entries(authHeaders())) xhr.setRequestHeader(name, value);
		xhr.setRequestHeader('Content-Type', options.contentType);
		xhr.upload.onprogress = (event) => options.onProgress(event.loaded);
		xhr.onerror = () => settle(() => reject(new Unreachable('the connection broke while sending')));
		xhr.onabort = () => settle(() => reject(new DOMException('cancelled', 'AbortError')));
		xhr.onload = () =>
			settle(() => {
				if (xhr.status !== 200) {
					reject(problem(xhr.status, xhr.responseText, xhr.getResponseHeader('Retry-After')));
					return;
				}
				try {
					resolve(Receipt.check(JSON.parse(xhr.responseText), '', false));
				} catch (error) {
					reject(error instanceof Error ? error : new Error(String(error)));
				}
			});
		if (options.signal.aborted) {
			reject(new DOMException('cancelled', 'AbortError'));
			return;
		}
		options.signal.addEventListener('abort', abort);
		xhr.send(options.body);
	});
}
