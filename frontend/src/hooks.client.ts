import type { HandleClientError } from '@sveltejs/kit';

/** An address that is no screen is shown as such and is nothing to report; all else is. */
export const handleError: HandleClientError = ({ error, status, message }) => {
	if (status !== 404) console.error(error);
	return { message: error instanceof Error && status !== 404 ? error.message : message };
};
