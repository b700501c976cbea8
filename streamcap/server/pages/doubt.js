// Captions of which the model is not sure are shown paler and begin with "perhaps".

const DOUBT_BELOW = 0.8;

// Whether the model doubts this caption; interim captions and those of models that cannot say have no confidence.
export const isDoubtful = ({ confidence }) => typeof confidence === "number" && confidence < DOUBT_BELOW;

// The text to show or say. `enabled`: the visitor's setting, `doubt=0` turns it off.
export const doubted = (event, enabled) => (enabled && event.text && isDoubtful(event) ? `perhaps ${event.text}` : event.text);
