// Publishes this browser's camera as a stream.

import { publish } from "./video.js";

export class OwnCamera {
  // `onChange(message)`: publishing started or ended; the message has the reason if the visitor did not end it.
  constructor(onChange) {
    this.name = null;
    this.onChange = onChange;
  }

  async start(name, headers) {
    if (!navigator.mediaDevices) throw new Error("Camera access requires HTTPS or localhost.");
    let media;
    try {
      media = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 } } });
    } catch (error) {
      throw new Error(reasons[error.name] ?? error.message);
    }
    try {
      this.end = await publish(name, media, headers, () => this.stop(`The connection of camera ${name} was lost.`));
    } catch (error) {
      for (const track of media.getTracks()) track.stop();
      throw error;
    }
    this.name = name;
    this.onChange("");
  }

  // Release the camera, which turns off its light.
  stop(message = "") {
    if (this.name === null) return;
    this.end();
    this.name = null;
    this.onChange(message);
  }
}

const reasons = {
  NotAllowedError: "The browser was not allowed to use the camera. Allow it in the address bar, then try again.",
  NotFoundError: "This device has no camera.",
  NotReadableError: "Another program is using the camera.",
};
