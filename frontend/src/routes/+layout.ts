// A page of the browser alone: the node serves files, not pages made for each request.
export const ssr = false;
export const prerender = false;
export const trailingSlash = 'ignore';
