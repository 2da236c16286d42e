// The package brings no types. What it has of a document is enough for Preact.
declare module "undom" {
  export default function undom(): Document;
}
