// The wall: all cameras at once, in the largest size that needs no scrolling.

const ASPECT = 16 / 9;
const MIN_TILE_PX = 110;
const BOTTOM_PX = 10;

// Columns and width of the largest 16:9 tiles, `gap` pixels apart, `count` of which fit into `width` by `height`.
export function fitTiles(count, width, height, gap) {
  let best = { columns: 1, tile: 0 };
  for (let columns = 1; columns <= count; columns += 1) {
    const rows = Math.ceil(count / columns);
    const tile = Math.min((width + gap) / columns - gap, ((height + gap) / rows - gap) * ASPECT);
    if (tile > best.tile) best = { columns, tile };
  }
  // On a very small screen, scroll instead of showing unreadable tiles.
  if (best.tile >= MIN_TILE_PX) return best;
  const columns = Math.max(1, Math.floor((width + gap) / (MIN_TILE_PX + gap)));
  return { columns, tile: (width + gap) / columns - gap };
}

export function layoutWall(streams) {
  const gap = Number.parseFloat(getComputedStyle(streams).columnGap) || 0;
  const top = streams.getBoundingClientRect().top + scrollY;
  const height = innerHeight - top - BOTTOM_PX;
  const { columns, tile } = fitTiles(streams.childElementCount, streams.clientWidth, height, gap);
  streams.style.setProperty("--columns", String(columns));
  streams.style.setProperty("--tile", `${Math.floor(tile)}px`);
}
