/** The key that does the same as the button it stands on; screen readers have it from the list of keys. */
export function Key({ name }: { name: string }) {
  return (
    <span aria-hidden="true">
      <kbd>{name}</kbd>
    </span>
  );
}
